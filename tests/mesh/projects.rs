//! `meshage-host new` makes projects whose READMEs are true: their commands set up, test and build, and
//! what they build answers the same in every language.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::harness::{
    Client, Node, Plugins, Sdk, Setup, State, binary, check_cart, examples, port_known_beforehand,
    until_within,
};

/// Downloads of packages, and builds, on a machine that does much else.
const BUILD_MAX: Duration = Duration::from_secs(600);

/// The smallest component is not what this is about.
const QUICK: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
];

struct Project {
    parent: TempDir,
}

impl Project {
    const NAME: &str = "order-book";

    fn new(flags: &[&str]) -> Self {
        let parent = TempDir::new().unwrap();
        let mut new = Command::new(binary());
        new.args(["new", Self::NAME]).args(flags);
        let output = new.current_dir(parent.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("cd order-book"), "{said}");
        Self { parent }
    }

    fn folder(&self) -> PathBuf {
        self.parent.path().join(Self::NAME)
    }

    /// Uses what another project has downloaded, or compiled.
    fn shares(&self, folder: &str, from: &Self) {
        let [from, to] = [from, self].map(|project| project.folder().join(folder));
        std::os::unix::fs::symlink(from, to).unwrap();
    }

    /// Runs the commands that its README shows, but for those that run until they are ended.
    async fn follow_readme(&self) {
        let readme = std::fs::read_to_string(self.folder().join("README.md")).unwrap();
        let commands = readme.split("```sh\n").nth(1).unwrap().split("```").next();
        let is_endless = |line: &&str| line.contains(" dev ") || line.contains("--plugins");
        let lines = commands.unwrap().lines().filter(|line| !is_endless(line));
        let script: Vec<&str> = ["set -e"].into_iter().chain(lines).collect();
        assert!(script.len() > 3, "{readme}");
        self.run(&script.join("\n")).await;
    }

    /// Runs a script in its folder.
    async fn run(&self, script: &str) {
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", script]).kill_on_drop(true);
        shell.envs(QUICK.iter().copied());
        shell.current_dir(self.folder());
        let output = timeout(BUILD_MAX, shell.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A node that runs what it has built, with its manifest.
    async fn node(&self, state: &State) -> Node {
        let file = |ending: &str| {
            let path = self.folder().join("plugins").join(Self::NAME);
            std::fs::read(path.with_extension(ending)).unwrap()
        };
        let plugins = Plugins::empty()
            .with_file("order-book.wasm", file("wasm"))
            .with_file("order-book.toml", file("toml"));
        Setup::new(plugins).state(state).ready().await
    }
}

/// What the handler of each language answers.
async fn check_messages(project: &Project) {
    let state = State::sqlite();
    let node = project.node(&state).await;
    let post = async |key: &str, body: &str| {
        let request = node.post(&format!("/api/order-book/{key}"));
        request.json(body).send().await
    };
    for times in 1..=2 {
        let answer = post("ada", r#"{"name":"Ada ä"}"#).await;
        let expected = format!(r#"{{"greeting":"Hello, Ada ä!","times":{times}}}"#);
        assert_eq!(answer.ok(), expected);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(
        post("bob", r#"{"name":"Bob"}"#).await.ok(),
        r#"{"greeting":"Hello, Bob!","times":1}"#
    );
    for body in ["{}", r#"{"name":""}"#] {
        let problem = post("ada", body).await.problem(400, "invalid");
        assert_eq!(
            problem["detail"], r#"a name, please: {"name":"Ada"}"#,
            "{body}"
        );
    }
    for body in ["no json", r#"{"name":5}"#] {
        post("ada", body).await.problem(400, "invalid");
    }
    let read = node.get("/api/order-book/ada").send().await;
    assert_eq!(read.ok(), r#"{"times":2}"#);
}

/// What the HTTP handler of each language answers.
async fn check_requests(project: &Project) {
    let state = State::sqlite();
    let node = project.node(&state).await;
    for (path, status, text) in [
        ("/", 200, "Hello, ada!\n"),
        ("", 200, "Hello, ada!\n"),
        ("/x/y?a=b", 404, "there is no /x/y\n"),
    ] {
        let answer = node.get(&format!("/api/order-book/ada{path}")).send().await;
        assert_eq!((answer.status, answer.text()), (status, text));
        let kind = answer.header("content-type").unwrap().to_ascii_lowercase();
        assert!(kind.starts_with("text/plain"), "{kind}");
    }
    let refused = node.put("/api/order-book/ada").body("x").send().await;
    assert_eq!((refused.status, refused.text()), (405, "no PUT\n"));
}

#[tokio::test]
async fn one_in_rust() {
    let project = Project::new(&["--lang", "rust"]);
    project.follow_readme().await;
    check_messages(&project).await;
    check_dev(&project).await;
    check_document(&project).await;
    let http = Project::new(&["--lang", "rust", "--http"]);
    http.shares("target", &project);
    http.follow_readme().await;
    check_requests(&http).await;
}

/// The examples of the document, in this project.
async fn check_document(project: &Project) {
    let examples = examples(include_str!("../../docs/rust.md"), "rust");
    let [echo, cart, rates] = &examples[..] else {
        panic!("three examples");
    };
    let build = "cargo build --quiet --release --target wasm32-wasip2 && \
                 cp target/wasm32-wasip2/release/order_book.wasm plugins/order-book.wasm";
    let with_waki = format!("cargo add --quiet waki@0.5 && {build}");
    let component = project.folder().join("plugins/order-book.wasm");
    for (example, command) in [
        (rates, with_waki.as_str()),
        (echo, build),
        (cart, "cargo remove --quiet waki && cargo test --quiet"),
        (cart, build),
    ] {
        std::fs::write(project.folder().join("src/lib.rs"), example).unwrap();
        project.run(command).await;
        let check = Command::new(binary()).arg("check").arg(&component).output();
        let check = check.unwrap();
        assert!(check.status.success(), "{check:?}");
    }
    check_cart(std::fs::read(component).unwrap()).await;
}

#[tokio::test]
async fn one_in_javascript_and_one_in_typescript() {
    if Sdk::javascript("one_in_javascript_and_one_in_typescript").is_none() {
        return;
    }
    for language in ["js", "ts"] {
        let project = Project::new(&["--lang", language]);
        project.follow_readme().await;
        check_messages(&project).await;
    }
}

#[tokio::test]
async fn one_in_javascript_and_one_in_typescript_for_http() {
    if Sdk::starling_monkey("one_in_javascript_and_one_in_typescript_for_http").is_none() {
        return;
    }
    let project = Project::new(&["--lang", "ts", "--http"]);
    project.follow_readme().await;
    check_requests(&project).await;
    // The same without types, and with the packages that are there.
    let plain = Project::new(&["--lang", "js", "--http"]);
    plain.shares("node_modules", &project);
    plain.run("npm test").await;
}

#[tokio::test]
async fn one_in_python() {
    if Sdk::python("one_in_python").is_some() {
        let project = Project::new(&["--lang", "python"]);
        project.follow_readme().await;
        check_messages(&project).await;
    }
}

#[tokio::test]
async fn one_in_python_for_http() {
    if Sdk::python("one_in_python_for_http").is_some() {
        let project = Project::new(&["--lang", "python", "--http"]);
        project.follow_readme().await;
        check_requests(&project).await;
    }
}

#[test]
fn what_cannot_be_a_project_is_said() {
    let parent = TempDir::new().unwrap();
    let new = |arguments: &[&str]| {
        let mut new = Command::new(binary());
        let output = new.arg("new").args(arguments).current_dir(parent.path());
        let output = output.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    for (arguments, status, why) in [
        (
            &["Order", "--lang", "js"][..],
            1,
            "\"Order\" cannot be the name",
        ),
        (&["../x", "--lang", "js"], 1, "cannot be the name"),
        (&["order", "--lang", "cobol"], 2, "rust, js, ts, python"),
        (&["order"], 2, "--lang"),
    ] {
        let (code, said) = new(arguments);
        assert_eq!(code, Some(status), "{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(new(&["order", "--lang", "js"]).0, Some(0));
    let (code, said) = new(&["order", "--lang", "js"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("order is there already"), "{said}");
}

/// `meshage-host dev` builds what is saved, and serves it.
async fn check_dev(project: &Project) {
    let [http, cluster, admin] = std::array::from_fn(|_| port_known_beforehand().to_string());
    let mut dev = tokio::process::Command::new(binary());
    dev.args(["--http-port", &http, "--cluster-port", &cluster])
        .args(["--admin-port", &admin, "--state", "sqlite:state.db", "dev"])
        .envs(QUICK)
        .current_dir(project.folder())
        .kill_on_drop(true);
    let mut dev = dev.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stderr.take().unwrap()).lines();
    let client = Client::new();
    let says = async |expected: &str| {
        let url = format!("http://127.0.0.1:{http}/api/order-book/1");
        let request = client.request(hyper::Method::POST, &url);
        let answer = request.json(r#"{"name":"Ada"}"#).try_send().await;
        answer.is_ok_and(|answer| answer.text().contains(expected))
    };
    until_within(BUILD_MAX, async || says("Hello, Ada!").await).await;
    let source = project.folder().join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    // A mistake changes nothing, and the next saving mends it.
    std::fs::write(&source, format!("{text}\nmistake")).unwrap();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("the last good one runs on") {
                return;
            }
        }
        panic!("the mistake is not told");
    };
    timeout(BUILD_MAX, told).await.unwrap();
    assert!(says("Hello, Ada!").await);
    // Its log must have a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    std::fs::write(&source, text.replace("Hello, {name}", "Salve, {name}")).unwrap();
    until_within(BUILD_MAX, async || says("Salve, Ada!").await).await;
}
