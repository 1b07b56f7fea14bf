//! The stream `account`: a bank account for each owner, who is the partition key. `POST` deposits,
//! withdraws, or closes it, `GET` reads it. `transfer` moves money between two of them.

use meshage_sdk::{Entity, Failure, Json, Message};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    cents: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
}

/// What a message asks for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Order {
    Deposit(Amount),
    Withdraw(Amount),
    Close,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    cents: u64,
    /// The transfer that is told how it went; without one the order fails if it cannot be carried out.
    transfer: Option<String>,
}

/// What a transfer is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Withdrawn,
    Deposited,
    Refused(String),
}

#[meshage_sdk::handler]
fn handle(message: Message, entity: Entity) -> Result<Json<Account>, Failure> {
    let mut account: Account = entity.get("account")?.unwrap_or_default();
    if message.method() == "GET" {
        return Ok(Json(account));
    }
    match message.json()? {
        Order::Deposit(amount) => {
            let done = account.deposit(amount.cents).map(|()| Answer::Deposited);
            answer(&entity, amount, done)?;
        }
        Order::Withdraw(amount) => {
            let done = account.withdraw(amount.cents).map(|()| Answer::Withdrawn);
            answer(&entity, amount, done)?;
        }
        Order::Close => account.closed = true,
    }
    entity.set("account", &account)?;
    Ok(Json(account))
}

/// Tells the transfer how it went, if there is one. What is sent leaves with what is written here, or
/// neither does.
fn answer(entity: &Entity, amount: Amount, done: Result<Answer, String>) -> Result<(), Failure> {
    match (amount.transfer, done) {
        (Some(transfer), done) => {
            let answer = done.unwrap_or_else(Answer::Refused);
            entity.send("transfer", transfer, &answer)
        }
        (None, Ok(_)) => Ok(()),
        (None, Err(because)) => Err(Failure::conflict(because)),
    }
}

impl Account {
    fn deposit(&mut self, cents: u64) -> Result<(), String> {
        if self.closed {
            return Err("the account is closed".to_owned());
        }
        let sum = self.cents.checked_add(cents);
        self.cents = sum.ok_or("that is more than there is money")?;
        Ok(())
    }

    fn withdraw(&mut self, cents: u64) -> Result<(), String> {
        let rest = self.cents.checked_sub(cents);
        self.cents = rest.ok_or_else(|| format!("there are only {} cents", self.cents))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshage_sdk::{Value, json};

    use super::*;

    fn send(ada: &Entity, order: Value) -> Result<u64, Failure> {
        let message = Message::new("account", "ada").with_json(&order);
        let Json(account) = ada.attempt(|entity| handle(message, entity))?;
        Ok(account.cents)
    }

    #[test]
    fn nobody_can_withdraw_more_than_there_is() {
        let ada = Entity::in_memory("account", "ada");
        assert_eq!(send(&ada, json!({ "deposit": { "cents": 10 } })), Ok(10));
        let failure = send(&ada, json!({ "withdraw": { "cents": 11 } })).unwrap_err();
        assert_eq!(failure, Failure::conflict("there are only 10 cents"));
        assert_eq!(send(&ada, json!({ "withdraw": { "cents": 10 } })), Ok(0));
    }

    #[test]
    fn a_transfer_is_told_how_it_went() {
        let ada = Entity::in_memory("account", "ada");
        let order = |name: &str| json!({ name: { "cents": 5, "transfer": "t1" } });
        for (name, answer) in [
            ("deposit", r#""deposited""#),
            ("withdraw", r#""withdrawn""#),
            ("withdraw", r#"{"refused":"there are only 0 cents"}"#),
        ] {
            send(&ada, order(name)).unwrap();
            let sent = ada.sent().pop().unwrap();
            assert_eq!(
                (sent.stream.as_str(), sent.key.as_str()),
                ("transfer", "t1")
            );
            assert_eq!(String::from_utf8(sent.body).unwrap(), answer);
        }
    }

    #[test]
    fn what_comes_to_a_closed_account_goes_back() {
        let ada = Entity::in_memory("account", "ada");
        send(&ada, json!("close")).unwrap();
        send(&ada, json!({ "deposit": { "cents": 5, "transfer": "t1" } })).unwrap();
        let sent = ada.sent().pop().unwrap();
        assert_eq!(sent.body, br#"{"refused":"the account is closed"}"#);
        send(&ada, json!({ "deposit": { "cents": 5 } })).unwrap_err();
    }
}
