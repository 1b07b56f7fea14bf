//! A real browser: Debian's Chromium without a window, driven over WebDriver by its own driver.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{skipped, until};

/// How long a page may take until it shows something.
const SHOWN_MAX: Duration = Duration::from_secs(40);

/// A browser with one page.
pub(crate) struct Browser {
    pub(crate) page: Client,
    _driver: Child,
    _profile: TempDir,
}

/// What the browser has logged since it was asked last.
#[derive(Debug)]
struct Log(&'static str);

impl WebDriverCompatibleCommand for Log {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": self.0 }).to_string()))
    }
}

impl Browser {
    /// `None`, said loudly, if there is none on this machine.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let is_there = |program: &str| {
            let asked = std::process::Command::new(program)
                .arg("--version")
                .output();
            asked.is_ok_and(|output| output.status.success())
        };
        if !is_there("chromium") || !is_there("chromedriver") {
            skipped(
                test,
                "Chromium (`apt-get install chromium chromium-driver`)",
            );
            return None;
        }
        let profile = TempDir::new().unwrap();
        // The driver takes no port 0; whoever takes this one meanwhile makes the test fail.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let driver = Command::new("chromedriver")
            .args([format!("--port={port}"), "--silent".into()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let capabilities = json!({
            "goog:chromeOptions": {
                "args": [
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-dev-shm-usage",
                    "--disable-background-networking",
                    "--disable-gpu",
                    "--window-size=1280,900",
                    format!("--user-data-dir={}", profile.path().display()),
                ],
            },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!("it is one")
        };
        let address = format!("http://127.0.0.1:{port}");
        until(|| async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        let page = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&address)
            .await
            .unwrap();
        let browser = Self {
            page,
            _driver: driver,
            _profile: profile,
        };
        // What its own first page has asked for is no concern of a test.
        browser.page.goto("about:blank").await.unwrap();
        browser.requests().await;
        Some(browser)
    }

    /// The text that a person sees in an element; empty if there is none.
    pub(crate) async fn text(&self, css: &str) -> String {
        match self.page.find(Locator::Css(css)).await {
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits until an element shows a text.
    pub(crate) async fn shows(&self, css: &str, text: &str) {
        let shown = until(|| async { self.text(css).await.contains(text) });
        if timeout(SHOWN_MAX, shown).await.is_err() {
            let shown = self.text(css).await;
            let console = self.console().await;
            panic!("{css} does not show {text:?} but {shown:?}; the console has {console:?}");
        }
    }

    /// What the page has written to its console, or was kept from doing.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.page.issue_cmd(Log("browser")).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// The addresses of all requests that the page has sent.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let entries = self.page.issue_cmd(Log("performance")).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        let sent = entries.filter_map(|entry| {
            let entry: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &entry["message"];
            let url = message["params"]["request"]["url"].as_str()?;
            (message["method"] == "Network.requestWillBeSent").then(|| url.to_owned())
        });
        sent.collect()
    }

    /// Writes a picture of the page into `docs/`, if `PICTURES` is set.
    pub(crate) async fn picture(&self, name: &str, height: u32) {
        if std::env::var_os("PICTURES").is_none() {
            return;
        }
        self.page.set_window_size(1_100, height).await.unwrap();
        // Rates come with the second report.
        self.shows("#basis", "last").await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        fs::write(folder.join(name), self.page.screenshot().await.unwrap()).unwrap();
    }

    pub(crate) async fn end(self) {
        self.page.close().await.unwrap();
    }
}
