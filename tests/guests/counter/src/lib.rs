//! A counter for each key, with a state of about 100 bytes: what benchmarks of entities run.

use meshage_sdk::{Json, Message, State};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
    padding: String,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            count: 0,
            padding: "x".repeat(70),
        }
    }
}

#[meshage_sdk::handler]
fn count(message: Message, counter: &mut State<Counter>) -> Json<u64> {
    if message.method() != "GET" {
        counter.count += 1;
    }
    Json(counter.count)
}
