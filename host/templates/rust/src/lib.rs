//! The stream `{{name}}`: greets who is named, and counts for each partition key how often it has.

use meshage_sdk::{Failure, Json, Message, State, Value, json};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Greeted {
    times: u32,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    name: String,
}

#[meshage_sdk::handler]
fn handle(message: Message, greeted: &mut State<Greeted>) -> Result<Json<Value>, Failure> {
    if message.method() == "GET" {
        return Ok(Json(json!({ "times": greeted.times })));
    }
    let Request { name } = message.json()?;
    if name.is_empty() {
        return Err(Failure::invalid(r#"a name, please: {"name":"Ada"}"#));
    }
    greeted.times += 1;
    Ok(Json(
        json!({ "greeting": format!("Hello, {name}!"), "times": greeted.times }),
    ))
}

#[cfg(test)]
mod tests {
    use meshage_sdk::Entity;

    use super::*;

    fn send(entity: &Entity, message: Message) -> Result<String, Failure> {
        let Json(answer) = entity.with_state(|greeted| handle(message, greeted))?;
        Ok(answer.to_string())
    }

    #[test]
    fn it_greets_and_counts() {
        let ada = Entity::in_memory("{{name}}", "ada");
        let post = |name: &str| Message::new("{{name}}", "ada").with_json(&json!({ "name": name }));
        for times in 1..=2 {
            let answer = send(&ada, post("Ada")).unwrap();
            assert_eq!(answer, format!(r#"{{"greeting":"Hello, Ada!","times":{times}}}"#));
        }
        assert!(matches!(send(&ada, post("")), Err(Failure::Invalid(_))));
        let get = Message::new("{{name}}", "ada").with_method("GET");
        assert_eq!(send(&ada, get).unwrap(), r#"{"times":2}"#);
    }
}
