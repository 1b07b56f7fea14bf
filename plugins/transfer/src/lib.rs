//! The stream `transfer`: moves money from one `account` to another, as a saga: one message after the
//! other, each committed with what it changes. The partition key is the transfer's own id.
//!
//! What holds, whatever dies: the money of a transfer is in one of three places, in the account that
//! it comes from, in the account that it goes to, or on its way, from the commit that withdraws it to
//! the one that deposits it. A transfer is `done` only if both accounts have changed, and `failed` only if neither
//! has, or the money is back.

use std::time::Duration;

use meshage_sdk::{Entity, Failure, Json, Message, Timer, json};
use serde::{Deserialize, Serialize};

/// How long the first account may take to answer. From then on the transfer has failed, and what is
/// withdrawn after all goes back.
const GIVE_UP: Duration = Duration::from_secs(30);

/// What a partition key can be: a message to any other one could not be sent.
const KEY_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Transfer {
    #[serde(flatten)]
    order: Order,
    phase: Phase,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    from: String,
    to: String,
    cents: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Phase {
    /// The first account was asked.
    Withdrawing,
    /// The money has left it, and the second account was asked.
    Depositing,
    Done,
    /// The first account gets its money back.
    Returning,
    /// It may be that the first account has not answered yet.
    Failed,
}

/// What an account tells.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Withdrawn,
    Deposited,
    Refused(String),
}

/// What is sent here: the order of a client, or the answer of an account.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Order(Order),
    Answer(Answer),
}

#[meshage_sdk::handler]
fn handle(
    message: Message,
    timer: Option<Timer>,
    entity: Entity,
) -> Result<Json<Transfer>, Failure> {
    let known: Option<Transfer> = entity.get("transfer")?;
    let unknown = || Failure::not_found("there is no such transfer");
    if message.method() == "GET" {
        return known.map(Json).ok_or_else(unknown);
    }
    let transfer = if timer.is_some() {
        let mut transfer = known.ok_or_else(unknown)?;
        transfer.give_up();
        transfer
    } else {
        match (message.json()?, known) {
            (Input::Order(order), None) => order.begin(&entity)?,
            // The client asks once more.
            (Input::Order(order), Some(transfer)) if order == transfer.order => transfer,
            (Input::Order(_), Some(_)) => {
                return Err(Failure::conflict("this transfer is another one"));
            }
            (Input::Answer(answer), known) => {
                let mut transfer = known.ok_or_else(unknown)?;
                transfer.go_on(answer, &entity)?;
                transfer
            }
        }
    };
    entity.set("transfer", &transfer)?;
    Ok(Json(transfer))
}

impl Order {
    fn begin(self, entity: &Entity) -> Result<Transfer, Failure> {
        for (name, account) in [("from", &self.from), ("to", &self.to)] {
            if account.is_empty() || account.len() > KEY_BYTES_MAX || account.contains('\0') {
                return Err(Failure::invalid(format_args!(
                    "{name} is no account: expected 1 to {KEY_BYTES_MAX} bytes without U+0000"
                )));
            }
        }
        if self.from == self.to {
            return Err(Failure::invalid("from and to are the same account"));
        }
        entity.send("account", &self.from, &self.ask("withdraw", entity))?;
        entity.remind("give-up", GIVE_UP)?;
        Ok(Transfer {
            order: self,
            phase: Phase::Withdrawing,
            because: None,
        })
    }

    fn ask(&self, what: &str, entity: &Entity) -> meshage_sdk::Value {
        json!({ what: { "cents": self.cents, "transfer": entity.key() } })
    }
}

impl Transfer {
    /// The timer has come.
    fn give_up(&mut self) {
        if self.phase == Phase::Withdrawing {
            self.phase = Phase::Failed;
            self.because = Some(format!("{} did not answer in time", self.order.from));
        }
    }

    fn go_on(&mut self, answer: Answer, entity: &Entity) -> Result<(), Failure> {
        let Order { from, to, .. } = &self.order;
        match (self.phase, answer) {
            (Phase::Withdrawing, Answer::Withdrawn) => {
                entity.cancel("give-up");
                entity.send("account", to, &self.order.ask("deposit", entity))?;
                self.phase = Phase::Depositing;
            }
            (Phase::Withdrawing, Answer::Refused(because)) => {
                entity.cancel("give-up");
                self.phase = Phase::Failed;
                self.because = Some(because);
            }
            // It comes after the transfer was given up.
            (Phase::Failed, Answer::Withdrawn) => {
                entity.send("account", from, &self.order.ask("deposit", entity))?;
                self.phase = Phase::Returning;
            }
            (Phase::Failed, Answer::Refused(_)) => {}
            (Phase::Depositing, Answer::Deposited) => self.phase = Phase::Done,
            (Phase::Depositing, Answer::Refused(because)) => {
                entity.send("account", from, &self.order.ask("deposit", entity))?;
                self.phase = Phase::Returning;
                self.because = Some(because);
            }
            (Phase::Returning, Answer::Deposited) => self.phase = Phase::Failed,
            // The first account was closed meanwhile: the money stays on its way, for a human to find.
            (Phase::Returning, Answer::Refused(because)) => self.because = Some(because),
            (phase, answer) => {
                return Err(Failure::conflict(format_args!(
                    "{answer:?} does not fit a transfer that is {phase:?}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshage_sdk::Value;

    use super::*;

    fn send(entity: &Entity, input: Value) -> Result<Phase, Failure> {
        let message = Message::new("transfer", "t1").with_json(&input);
        let Json(transfer) = entity.attempt(|entity| handle(message, None, entity))?;
        Ok(transfer.phase)
    }

    fn begun() -> Entity {
        let entity = Entity::in_memory("transfer", "t1");
        let order = json!({ "from": "ada", "to": "bob", "cents": 5 });
        assert_eq!(send(&entity, order), Ok(Phase::Withdrawing));
        entity
    }

    /// The accounts that were asked to do something.
    fn asked(entity: &Entity) -> Vec<String> {
        let sent = entity.sent().into_iter();
        let sent = sent.filter(|sent| sent.name.is_none());
        sent.map(|sent| format!("{}: {}", sent.key, String::from_utf8(sent.body).unwrap()))
            .collect()
    }

    const WITHDRAW: &str = r#"ada: {"withdraw":{"cents":5,"transfer":"t1"}}"#;
    const DEPOSIT: &str = r#"bob: {"deposit":{"cents":5,"transfer":"t1"}}"#;
    const RETURN: &str = r#"ada: {"deposit":{"cents":5,"transfer":"t1"}}"#;

    #[test]
    fn the_money_leaves_one_account_and_comes_to_the_other() {
        let entity = begun();
        assert_eq!(send(&entity, json!("withdrawn")), Ok(Phase::Depositing));
        assert_eq!(send(&entity, json!("deposited")), Ok(Phase::Done));
        assert_eq!(asked(&entity), [WITHDRAW, DEPOSIT]);
    }

    #[test]
    fn money_that_cannot_be_deposited_goes_back() {
        let entity = begun();
        send(&entity, json!("withdrawn")).unwrap();
        let refused = send(&entity, json!({ "refused": "closed" }));
        assert_eq!(refused, Ok(Phase::Returning));
        assert_eq!(send(&entity, json!("deposited")), Ok(Phase::Failed));
        assert_eq!(asked(&entity), [WITHDRAW, DEPOSIT, RETURN]);
    }

    #[test]
    fn money_that_comes_after_the_timer_goes_back() {
        let entity = begun();
        let timer = Some(Timer::named("give-up"));
        handle(Message::new("transfer", "t1"), timer, entity.clone()).unwrap();
        assert_eq!(send(&entity, json!("withdrawn")), Ok(Phase::Returning));
        assert_eq!(asked(&entity), [WITHDRAW, RETURN]);
    }

    #[test]
    fn accounts_that_cannot_be_are_refused_before_money_moves() {
        let entity = Entity::in_memory("transfer", "t1");
        let long = "x".repeat(1025);
        for (from, to) in [
            ("", "bob"),
            ("ada", ""),
            ("ada", long.as_str()),
            ("a\0", "bob"),
        ] {
            let order = json!({ "from": from, "to": to, "cents": 5 });
            assert!(matches!(send(&entity, order), Err(Failure::Invalid(_))));
        }
        assert_eq!(entity.sent(), []);
    }

    #[test]
    fn a_repeated_order_is_the_same_transfer() {
        let entity = begun();
        let order = |cents| json!({ "from": "ada", "to": "bob", "cents": cents });
        assert_eq!(send(&entity, order(5)), Ok(Phase::Withdrawing));
        assert!(matches!(send(&entity, order(6)), Err(Failure::Conflict(_))));
        assert_eq!(asked(&entity), [WITHDRAW]);
    }
}
