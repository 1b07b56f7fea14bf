//! Looks after the plugins that a mesh shares, by the admin API of a node on this host.

use std::fmt::Write as _;

use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::ask::ask;
use crate::config::AdminTerms;
use crate::message::{NodeId, Revision, StreamName};

/// Of the name of a release, what people need to tell it from others.
const NAME_SHOWN: usize = 12;

#[derive(Deserialize)]
struct Streams {
    streams: Vec<Stream>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    stream: String,
    revisions: Vec<Known>,
    removed_here: bool,
    shadowed: Option<String>,
    problem: Option<String>,
    nodes: Vec<NodeId>,
    idle_nodes: Vec<NodeId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    #[serde(flatten)]
    revision: Revision,
    is_here: bool,
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// The streams that the mesh shares, as lines.
///
/// # Errors
/// Why the node does not say.
pub async fn list_releases(terms: &AdminTerms) -> Result<String, String> {
    let answer = answer(terms, Method::GET, "/releases").await?;
    let Streams { streams } = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    Ok(streams.iter().map(describe).collect())
}

/// Has the mesh run the release of an earlier revision again: its number, or the beginning of the release's name.
///
/// # Errors
/// Why it does not.
pub async fn use_release(
    terms: &AdminTerms,
    stream: &StreamName,
    wanted: &str,
) -> Result<Revision, String> {
    let wanted = utf8_percent_encode(wanted, NON_ALPHANUMERIC);
    change(terms, &format!("/releases/{stream}/use/{wanted}")).await
}

/// Has the mesh run the file in the node's directory that does not run.
///
/// # Errors
/// Why it does not.
pub async fn use_file(terms: &AdminTerms, stream: &StreamName) -> Result<(), String> {
    let path = format!("/releases/{stream}/use");
    answer(terms, Method::POST, &path).await.map(drop)
}

/// Removes a stream from the mesh.
///
/// # Errors
/// Why it does not.
pub async fn remove_release(terms: &AdminTerms, stream: &StreamName) -> Result<Revision, String> {
    change(terms, &format!("/releases/{stream}/remove")).await
}

async fn change(terms: &AdminTerms, path: &str) -> Result<Revision, String> {
    let answer = answer(terms, Method::POST, path).await?;
    serde_json::from_str(&answer).map_err(|error| error.to_string())
}

async fn answer(terms: &AdminTerms, method: Method, path: &str) -> Result<String, String> {
    let AdminTerms { admin, token } = terms;
    match ask(*admin, method, path, token.as_deref()).await? {
        (StatusCode::OK, answer) => Ok(answer),
        (_, answer) => Err(match serde_json::from_str(&answer) {
            Ok(Problem { error }) => error,
            Err(_) => answer.trim().to_owned(),
        }),
    }
}

fn describe(stream: &Stream) -> String {
    let mut lines = String::new();
    let mut line = |text: &str| writeln!(lines, "{text}").expect("a string grows");
    let names = |nodes: &[NodeId]| {
        nodes
            .iter()
            .map(NodeId::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let runs = match (names(&stream.nodes), names(&stream.idle_nodes)) {
        (runs, idle) if idle.is_empty() => format!("on {runs}"),
        (runs, idle) => format!("on {runs}; not run by {idle}"),
    };
    for (place, known) in stream.revisions.iter().enumerate() {
        let Revision {
            number, release, ..
        } = known.revision;
        let name = release.map(|release| release.to_string());
        let name = name.as_ref().map_or("removed", |name| &name[..NAME_SHOWN]);
        let what = match place {
            0 if release.is_none() => String::new(),
            0 => runs.clone(),
            _ if known.is_here || release.is_none() => "before".to_owned(),
            _ => "before; not on this node".to_owned(),
        };
        let stream = if place == 0 { &*stream.stream } else { "" };
        line(format!("{stream:<20} {number:>8} {name:<NAME_SHOWN$} {what}").trim_end());
    }
    if stream.revisions.is_empty() {
        line(&format!("{:<20} not of the mesh", stream.stream));
    }
    if stream.removed_here {
        line("  does not run on this node: its file was removed from the directory");
    }
    if let Some(why) = &stream.shadowed {
        line(&format!(
            "  the file in this node's directory does not run: {why}"
        ));
    }
    if let Some(problem) = &stream.problem {
        line(&format!("  cannot be fetched: {problem}"));
    }
    lines
}
