use meshage_sdk::{Entity, Failure, Json, Message, PartitionKey, Query, Reply, State, Value};

mod whole {
    use super::*;

    #[meshage_sdk::handler]
    fn handle(_: Message) -> Result<Json<Value>, Failure> {
        Err(Failure::not_found("nothing"))
    }
}

mod parts {
    use super::*;

    #[meshage_sdk::handler]
    fn handle(PartitionKey(key): PartitionKey, Query(_): Query<Vec<(String, String)>>, mut body: Vec<u8>) -> Reply {
        body.clear();
        Reply::new(200).with_body("text/plain", key)
    }
}

mod nothing {
    #[meshage_sdk::handler]
    pub fn handle() {}
}

mod names {
    #[meshage_sdk::handler]
    fn message(argument_0: String) -> String {
        argument_0
    }
}

mod text {
    #[meshage_sdk::handler]
    fn handle(text: String) -> String {
        text
    }
}

mod state {
    use super::*;

    #[meshage_sdk::handler]
    fn handle(count: &mut State<u32>, Json(more): Json<u32>) -> Result<Json<u32>, Failure> {
        **count += more;
        Ok(Json(**count))
    }
}

mod entity {
    use super::*;

    #[meshage_sdk::handler]
    fn handle(message: Message, entity: Entity, count: &State<u32>) -> String {
        format!("{} {} {}", message.id(), entity.key(), **count)
    }
}

fn main() {
    nothing::handle();
}
