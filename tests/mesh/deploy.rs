//! What operators take into their own tools fits what nodes tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{binary, skipped};

/// Series of Prometheus' own, and what histograms append to their names.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// The names of metrics that a text has.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let metrics = words.filter(|word| word.starts_with("meshage_"));
    let whole = metrics.map(|word| {
        let end = PARTS.iter().find_map(|part| word.strip_suffix(part));
        end.unwrap_or(word).to_owned()
    });
    whole.collect()
}

fn documented() -> BTreeSet<String> {
    metrics(&fs::read_to_string(file("docs/http-api.md")).unwrap())
}

#[test]
fn alerts_and_graphs_ask_for_metrics_that_there_are() {
    let documented = documented();
    for name in ["deploy/alerts.yml", "deploy/grafana-dashboard.json"] {
        let asked = metrics(&fs::read_to_string(file(name)).unwrap());
        assert!(asked.len() > 5, "{name}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&documented).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}");
    }
}

#[test]
fn graphs_are_of_a_form_that_grafana_reads() {
    let text = fs::read_to_string(file("deploy/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

/// What is expected of the rules: when they fire, and when not.
const EXPECTED: &str = r#"
evaluation_interval: 1m
rule_files: [RULES]
tests:
  - interval: 1m
    input_series:
      - { series: 'up{job="meshage", instance="n1"}', values: '1 1 0 0 0 0 0 0 0 0 0' }
      - { series: 'meshage_messages_total{job="meshage", stream="echo", outcome="ok"}', values: '0+90x10' }
      - { series: 'meshage_messages_total{job="meshage", stream="echo", outcome="invalid"}', values: '0+50x10' }
      - { series: 'meshage_messages_total{job="meshage", stream="bad", outcome="ok"}', values: '0+90x10' }
      - { series: 'meshage_messages_total{job="meshage", stream="bad", outcome="crashed"}', values: '0+10x10' }
      - { series: 'meshage_peers{job="meshage", instance="n1"}', values: '1x10' }
      - { series: 'meshage_peers{job="meshage", instance="n2"}', values: '1x10' }
      - { series: 'meshage_peers{job="meshage-split", instance="n3"}', values: '0x10' }
      - { series: 'meshage_peers{job="meshage-split", instance="n4"}', values: '0x10' }
      - { series: 'meshage_state_refused_total{job="meshage"}', values: '0 0 0 7 30 60 90 120 150 180 210' }
      - { series: 'meshage_open_breakers{job="meshage", instance="n1"}', values: '0 0 1x8' }
      - { series: 'meshage_log_lines_dropped_total{job="meshage", instance="n1"}', values: '0 0 500x8' }
    alert_rule_test:
      - eval_time: 1m
        alertname: MeshageNodeDown
        exp_alerts: []
      - eval_time: 6m
        alertname: MeshageNodeDown
        exp_alerts:
          - exp_labels: { severity: page, job: meshage, instance: n1 }
            exp_annotations:
              summary: n1 cannot be scraped
              description: Its keys have gone to other nodes. Look at its process and its log.
      - eval_time: 10m
        alertname: MeshageMessagesFail
        exp_alerts:
          - exp_labels: { severity: page, job: meshage, stream: bad }
            exp_annotations:
              summary: 10% of the messages of bad fail
              description: The dashboard says with which outcome. `crashed` and `internal` are the handler's, `overloaded` is a limit.
      - eval_time: 10m
        alertname: MeshageNodesDisagree
        exp_alerts:
          - exp_labels: { severity: page, job: meshage-split, instance: n3 }
            exp_annotations:
              summary: n3 sees another mesh than the meshage-split that is scraped
              description: Look at the network between them, and at `node-gone` and `gossip-rejected` in their logs.
          - exp_labels: { severity: page, job: meshage-split, instance: n4 }
            exp_annotations:
              summary: n4 sees another mesh than the meshage-split that is scraped
              description: Look at the network between them, and at `node-gone` and `gossip-rejected` in their logs.
      - eval_time: 10m
        alertname: MeshageStateUnavailable
        exp_alerts:
          - exp_labels: { severity: page, job: meshage }
            exp_annotations:
              summary: Messages of stateful streams are refused, as the store does not work
              description: Look at the database, or the disk. Nothing that was acknowledged is lost.
      - eval_time: 10m
        alertname: MeshageBreakerStaysOpen
        exp_alerts:
          - exp_labels: { severity: page, job: meshage, instance: n1 }
            exp_annotations:
              summary: n1 does not reach 1 of the nodes that it sees
              description: Messages take another way meanwhile. Look at the network between the two, and at the cluster port of the other one.
      - eval_time: 5m
        alertname: MeshageLogDropped
        exp_alerts:
          - exp_labels: { severity: ticket, job: meshage, instance: n1 }
            exp_annotations:
              summary: "Lines of the log of n1 are lost: nobody takes them"
"#;

#[test]
fn alerts_fire_when_they_should() {
    let is_there = Command::new("promtool").arg("--version").output().is_ok();
    if !is_there {
        return skipped(
            "alerts_fire_when_they_should",
            "promtool (`apt-get install prometheus`)",
        );
    }
    let rules = file("deploy/alerts.yml").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let expected = folder.path().join("expected.yml");
    let text = EXPECTED.replace("RULES", rules.to_str().unwrap());
    fs::write(&expected, text).unwrap();
    for arguments in [["check", "rules"], ["test", "rules"]] {
        let of = if arguments[0] == "check" {
            &rules
        } else {
            &expected
        };
        let output = Command::new("promtool")
            .args(arguments)
            .arg(of)
            .output()
            .unwrap();
        let told =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
    }
}

/// The output of a command that must succeed.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_kubernetes_gets_is_as_its_schemas_have_it() {
    const NAME: &str = "what_kubernetes_gets_is_as_its_schemas_have_it";
    let has = |command: &mut Command| command.output().is_ok_and(|it| it.status.success());
    let validate = file("target/python/bin/kubernetes-validate");
    if !has(Command::new("kubectl").args(["version", "--client"])) {
        return skipped(NAME, "kubectl (https://kubernetes.io/docs/tasks/tools)");
    }
    if !has(Command::new(&validate).arg("--version")) {
        return skipped(NAME, "kubernetes-validate (`pip install`)");
    }
    // With what an operator makes beforehand.
    let folder = tempfile::tempdir().unwrap();
    output_of(
        Command::new("cp")
            .arg("-r")
            .arg(file("deploy/kubernetes"))
            .arg(folder.path()),
    );
    let made = folder.path().join("kubernetes");
    for (name, text) in [
        ("base/secret", "secret"),
        ("base/tokens", "tokens"),
        (
            "postgres/store",
            "MESHAGE_STATE=postgres://m:secret@db/meshage",
        ),
    ] {
        fs::write(made.join(name), text).unwrap();
    }
    for overlay in ["sqlite", "postgres"] {
        let text = output_of(
            Command::new("kubectl")
                .arg("kustomize")
                .arg(made.join(overlay)),
        );
        let whole = folder.path().join("whole.yaml");
        fs::write(&whole, &text).unwrap();
        let told = output_of(Command::new(&validate).arg("--strict").arg(&whole));
        assert!(!told.contains("ERROR"), "{told}");
        // Each variable is one of the node.
        let help = output_of(Command::new(binary()).arg("--help"));
        let names = text
            .lines()
            .filter_map(|line| line.split_once("- name: ")?.1.into());
        let variables: Vec<&str> = names
            .filter(|name: &&str| name.starts_with("MESHAGE_"))
            .collect();
        assert!(variables.len() > 8, "{variables:?}");
        for variable in variables {
            assert!(help.contains(variable), "{variable}");
        }
    }
}

#[test]
fn what_compose_gets_is_as_it_reads_it() {
    const NAME: &str = "what_compose_gets_is_as_it_reads_it";
    let compose = |arguments: &[&str], password: Option<&str>| {
        let mut compose = Command::new("docker");
        compose
            .args(["compose", "--file"])
            .arg(file("deploy/compose/compose.yaml"));
        compose.args(arguments).env_remove("POSTGRES_PASSWORD");
        compose.envs(password.map(|password| ("POSTGRES_PASSWORD", password)));
        compose.output()
    };
    if !compose(&["version"], None).is_ok_and(|it| it.status.success()) {
        return skipped(
            NAME,
            "docker compose (https://docs.docker.com/compose/install)",
        );
    }
    let config = compose(&["config", "--format", "json"], Some("secret")).unwrap();
    assert!(config.status.success(), "{config:?}");
    let config: Value = serde_json::from_slice(&config.stdout).unwrap();
    let services = config["services"].as_object().unwrap();
    assert_eq!(services.len(), 4, "{config}");
    for node in ["one", "two", "three"] {
        let node = &services[node];
        assert_eq!(node["read_only"], true, "{node}");
        let state = node["environment"]["MESHAGE_STATE"].as_str().unwrap();
        assert!(
            state.starts_with("postgres://meshage:secret@postgres/"),
            "{state}"
        );
    }
    let without = compose(&["config", "--quiet"], None).unwrap();
    let said = String::from_utf8_lossy(&without.stderr);
    assert!(said.contains("docs/operating.md"), "{said}");
}

/// How exposed a unit may be, of 100: what is above it is named by `systemd-analyze security`.
const EXPOSURE_MAX: &str = "16";

#[test]
fn the_unit_of_systemd_is_right_and_exposes_little() {
    let is_there = Command::new("systemd-analyze").arg("--version").output();
    if is_there.is_err() {
        return skipped(
            "the_unit_of_systemd_is_right_and_exposes_little",
            "systemd-analyze (`apt-get install systemd`)",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("meshage.service");
    let text = fs::read_to_string(file("deploy/systemd/meshage.service")).unwrap();
    let text = text.replace("/usr/bin/meshage-host", binary().to_str().unwrap());
    fs::write(&unit, text).unwrap();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    for arguments in [&["verify"][..], &["security", "--offline=true", &threshold]] {
        let analyze = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&unit)
            .output();
        let output = analyze.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{output:?}");
    }
}

#[test]
fn the_settings_of_the_unit_are_settings() {
    // It starts nothing: the port of no node is asked.
    let output = Command::new(binary())
        .args(["--config"])
        .arg(file("deploy/systemd/meshage.toml"))
        .args(["--admin-port", "1", "health"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
