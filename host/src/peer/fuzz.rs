use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::wire::{self, Frame};

/// Takes what a peer sends, as a stream of frames and as one frame. Whatever can be read can be
/// written, and read again.
pub fn peer(data: &[u8]) {
    wire::calls_in(data);
    read_again(Bytes::copy_from_slice(data));
    let (mut framing, mut buffer) = (wire::framing(), BytesMut::from(data));
    while let Ok(Some(frame)) = framing.decode(&mut buffer) {
        read_again(frame.freeze());
    }
}

fn read_again(frame: Bytes) {
    let mut written = BytesMut::new();
    match wire::decode(frame) {
        Ok(Frame::Call {
            id,
            mut message,
            remaining,
            body,
        }) if body.is_complete() => {
            message.body = body.into_bytes();
            let rest = wire::put_call(&mut written, id, &message, remaining);
            let Frame::Call {
                id: again_id,
                message: mut again,
                remaining: again_remaining,
                body,
            } = first(&mut written)
            else {
                panic!("a call became something else")
            };
            if rest.is_empty() {
                again.body = body.into_bytes();
                assert_eq!(again.body, message.body);
            }
            assert_eq!((again_id, again_remaining), (id, remaining));
            assert_eq!(
                (again.id, again.method, &again.query),
                (message.id, message.method, &message.query)
            );
            assert_eq!(
                (&again.stream, &again.partition_key),
                (&message.stream, &message.partition_key)
            );
            assert!(
                again.headers.len() <= message.headers.len(),
                "those of a connection are not sent"
            );
        }
        Ok(Frame::Reply {
            id,
            mut reply,
            body,
            ..
        }) if body.is_complete() => {
            reply.body = body.into_bytes();
            wire::put_reply(&mut written, id, &reply, None);
            let Frame::Reply {
                id: again_id,
                reply: again,
                ..
            } = first(&mut written)
            else {
                panic!("a reply became something else")
            };
            assert_eq!((again_id, again.status), (id, reply.status));
        }
        Ok(Frame::Fault { id, fault }) => {
            wire::put_fault(&mut written, id, &fault);
            let Frame::Fault {
                id: again_id,
                fault: again,
            } = first(&mut written)
            else {
                panic!("a fault became something else")
            };
            assert_eq!((again_id, again), (id, fault));
        }
        Ok(Frame::Hello(hello)) => {
            wire::put_hello(&mut written, &hello);
            let Frame::Hello(again) = first(&mut written) else {
                panic!("a hello became something else")
            };
            assert_eq!(again, hello);
        }
        _ => {}
    }
}

fn first(written: &mut BytesMut) -> Frame {
    let frame = wire::framing()
        .decode(written)
        .expect("no larger than may be")
        .expect("a whole frame");
    wire::decode(frame.freeze()).expect("what was written can be read")
}
