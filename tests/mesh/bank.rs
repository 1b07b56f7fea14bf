//! The examples `account` and `transfer`: whatever dies, money is neither made nor lost, and each
//! transfer happens once or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    Client, Node, Path, Plugins, Setup, State, Wire, on_both_stores, refs, stamped, until,
    wait_for_mesh,
};

on_both_stores!(money_is_neither_made_nor_lost);

const ACCOUNTS: u64 = 50;
const CENTS: u64 = 1_000;

/// A transfer moves up to so much, so that some are refused.
const TRANSFER_CENTS_MAX: u64 = 600;

const CLIENTS: u64 = 8;

/// Transfers between two faults.
const BETWEEN: u64 = 150;

struct Bank {
    state: State,
    wire: Wire,
    plugins: Plugins,
    nodes: Vec<Node>,
    clients: Clients,
}

/// Clients that order transfers, each until it is acknowledged, as long as they may.
#[derive(Default)]
struct Clients {
    targets: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    tasks: JoinSet<()>,
    is_over: Arc<AtomicBool>,
}

impl Bank {
    async fn open(state: State) -> Self {
        let wire = Wire::lay(3);
        let plugins = Plugins::empty()
            .with("account", "account")
            .with("transfer", "transfer");
        let mut bank = Self {
            state,
            wire,
            plugins,
            nodes: Vec::new(),
            clients: Clients::default(),
        };
        for number in 1..=3 {
            let node = bank.start(number).await;
            bank.nodes.push(node);
        }
        wait_for_mesh(&refs(&bank.nodes)).await;
        for number in 0..ACCOUNTS {
            let deposit = json!({ "deposit": { "cents": CENTS } }).to_string();
            let path = format!("/api/account/{number}");
            bank.nodes[0].post(&path).json(&deposit).send().await.ok();
        }
        bank
    }

    async fn start(&self, number: usize) -> Node {
        let setup = Setup::new(self.plugins.clone())
            .on(&self.wire, number)
            .state(&self.state);
        let others: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|node| node.id != format!("n{number}"))
            .collect();
        setup.seeds(&others).start().await
    }

    /// Lets this happen while clients order transfers, and checks the sum when all is quiet again.
    async fn under(&mut self, fault: &str, happen: impl AsyncFnOnce(&mut Self)) {
        let number = self.clients.acknowledged.load(Ordering::Relaxed);
        self.clients.targets = Arc::new(Mutex::new(addresses(&self.nodes)));
        self.clients.start();
        self.clients.wait_for(number + BETWEEN).await;
        happen(self).await;
        *self.clients.targets.lock().unwrap() = addresses(&self.nodes);
        let reached = self.clients.acknowledged.load(Ordering::Relaxed);
        self.clients.wait_for(reached + BETWEEN).await;
        self.clients.stop().await;
        self.be_quiet().await;
        let sum: u64 = self.balances().await.values().sum();
        if sum != ACCOUNTS * CENTS {
            eprintln!("sum {sum} after {fault}");
            self.check().await;
        }
        assert_eq!(sum, ACCOUNTS * CENTS, "after {fault}");
        println!(
            "after {fault}: {} transfers, the sum is right",
            self.clients.acknowledged.load(Ordering::Relaxed)
        );
    }

    /// Waits until every message has its answer. What is to be tried again is tried at once.
    async fn be_quiet(&self) {
        until(|| async {
            self.state
                .execute("UPDATE meshage_send SET wake_at = 1 WHERE tries > 0")
                .await;
            self.state.sends().await == 0
        })
        .await;
    }

    async fn balances(&self) -> BTreeMap<String, u64> {
        let mut balances = BTreeMap::new();
        for number in 0..ACCOUNTS {
            let account = self.nodes[1]
                .get(&format!("/api/account/{number}"))
                .send()
                .await;
            account.ok();
            let cents = account.json()["cents"].as_u64().unwrap();
            balances.insert(number.to_string(), cents);
        }
        balances
    }

    /// What the transfers say is what the accounts have.
    async fn check(&self) {
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        let (mut done, mut failed) = (0, 0);
        let mut after = String::new();
        loop {
            let page = format!("/entities/transfer?limit=1000&after={after}");
            let page = self.nodes[0].admin(&page).await.json();
            for transfer in page["entities"].as_array().unwrap() {
                let key = transfer["partitionKey"].as_str().unwrap();
                let transfer = self.nodes[2]
                    .get(&format!("/api/transfer/{key}"))
                    .send()
                    .await;
                let transfer = transfer.json();
                match transfer["phase"].as_str().unwrap() {
                    "done" => {
                        done += 1;
                        let cents = transfer["cents"].as_i64().unwrap();
                        *expected.entry(text(&transfer["from"])).or_default() -= cents;
                        *expected.entry(text(&transfer["to"])).or_default() += cents;
                    }
                    "failed" => failed += 1,
                    phase => panic!("{key} is {phase}: {transfer}"),
                }
            }
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
        }
        for (account, cents) in self.balances().await {
            let expected = CENTS as i64 + expected.get(&account).copied().unwrap_or_default();
            if cents as i64 != expected {
                eprintln!("account {account} has {cents} expected {expected}");
            }
        }
        println!("{done} transfers were done, {failed} were refused");
        let acknowledged = self.clients.acknowledged.load(Ordering::Relaxed);
        assert_eq!(done + failed, acknowledged);
        assert!(failed > 0 && done > failed, "{done} {failed}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn addresses(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.http.clone()).collect()
}

impl Clients {
    fn start(&mut self) {
        self.is_over = Arc::default();
        for client in 0..CLIENTS {
            let (targets, acknowledged) = (self.targets.clone(), self.acknowledged.clone());
            let is_over = self.is_over.clone();
            self.tasks.spawn(async move {
                let http = Client::new();
                while !is_over.load(Ordering::Relaxed) {
                    order(&http, &targets, client).await;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    async fn wait_for(&self, acknowledged: u64) {
        until(|| async { self.acknowledged.load(Ordering::Relaxed) >= acknowledged }).await;
    }

    async fn stop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// Orders a transfer until it is acknowledged. It is the same one each time.
async fn order(http: &Client, targets: &Mutex<Vec<String>>, client: u64) {
    let from = fastrand::u64(..ACCOUNTS);
    let to = (from + fastrand::u64(1..ACCOUNTS)) % ACCOUNTS;
    let cents = fastrand::u64(1..=TRANSFER_CENTS_MAX);
    let order = json!({ "from": from.to_string(), "to": to.to_string(), "cents": cents });
    let key = format!("{client}-{:016x}", fastrand::u64(..));
    until(|| async {
        let target = {
            let targets = targets.lock().unwrap();
            targets[fastrand::usize(..targets.len())].clone()
        };
        let url = format!("http://{target}/api/transfer/{key}");
        let request = http.request(Method::POST, &url).json(&order.to_string());
        let Ok(answer) = request.try_send().await else {
            return false;
        };
        let is_known = answer.status == 200 || answer.status >= 500;
        assert!(is_known, "{key}: {} {}", answer.status, answer.text());
        answer.status == 200
    })
    .await;
}

async fn money_is_neither_made_nor_lost(state: State) {
    let state = match state {
        // This test stops the server.
        State::Postgres { .. } => State::on(test_postgres::Postgres::start().await).await,
        file => file,
    };
    let mut bank = Bank::open(state).await;
    bank.under("a kill", async |bank| {
        bank.nodes[2].kill().await;
        let reached = bank.clients.acknowledged.load(Ordering::Relaxed);
        bank.clients.wait_for(reached + BETWEEN).await;
        bank.nodes[2] = bank.start(3).await;
        wait_for_mesh(&refs(&bank.nodes)).await;
    })
    .await;
    bank.under("a hang", async |bank| {
        bank.nodes[1].hang().await;
        until(|| async { bank.nodes[0].view().await.len() == 2 }).await;
        bank.nodes[1].signal(Signal::CONT);
        wait_for_mesh(&refs(&bank.nodes)).await;
    })
    .await;
    bank.under("a partition", async |bank| {
        bank.wire.between(&[1], &[2, 3], Path::Cut);
        until(|| async { bank.nodes[0].view().await.len() == 1 }).await;
        let reached = bank.clients.acknowledged.load(Ordering::Relaxed);
        bank.clients.wait_for(reached + BETWEEN).await;
        bank.wire.heal();
        wait_for_mesh(&refs(&bank.nodes)).await;
    })
    .await;
    bank.under("reloads", async |bank| {
        for version in 1..=3 {
            for stream in ["account", "transfer"] {
                bank.plugins
                    .put(&format!("{stream}.wasm"), &stamped(stream, version));
            }
            let reached = bank.clients.acknowledged.load(Ordering::Relaxed);
            bank.clients.wait_for(reached + BETWEEN).await;
        }
    })
    .await;
    bank.under("a restart of the store", async |bank| {
        match &bank.state {
            State::Postgres { server, .. } => {
                server.kill().await;
                until(|| refused(&bank.nodes[0])).await;
                server.run().await;
            }
            State::Sqlite(_) => {
                let file = rusqlite::Connection::open(bank.state.file()).unwrap();
                file.execute_batch("BEGIN IMMEDIATE").unwrap();
                until(|| refused(&bank.nodes[0])).await;
            }
        }
        until(|| async { !refused(&bank.nodes[0]).await }).await;
    })
    .await;
    bank.check().await;
}

async fn refused(node: &Node) -> bool {
    let nothing = json!({ "deposit": { "cents": 0 } }).to_string();
    let answer = node.post("/api/account/0").json(&nothing).send().await;
    answer.status == 503
}
