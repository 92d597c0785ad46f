//! `drain`: this machine's guests leave, and no others come.

use std::{process::ExitCode, time::Duration};

use tokio::time::sleep;

use super::{
    UiError,
    args::{DrainArgs, Format},
    client, output,
};
use crate::api::view::{NodeSummary, ProcessSummary};

/// Between two looks at how many guests are left: the daemon counts them each second.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn drain(args: &DrainArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let mut node = client.drain(!args.undo).await.map_err(&failed)?;
    let mut said = String::new();
    while args.wait && node.guests > 0 {
        let waits = waits_for(&node.node, &client.list_processes(None).await.map_err(&failed)?);
        if waits != said {
            eprint!("{waits}");
            said = waits;
        }
        sleep(LOOK).await;
        node = client.local_node().await.map_err(&failed)?;
        if node.refuses_because.is_none() {
            return Err(UiError::Undone { node: node.node });
        }
    }
    output::print(&match args.list.output {
        Format::Json => output::json(&node)?,
        Format::Table | Format::Wide => sentence(&node),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Who is still there, a line each, with why it cannot leave if it cannot.
fn waits_for(node: &str, processes: &[ProcessSummary]) -> String {
    let guests = processes.iter().filter(|process| process.runs_on == node && process.home != node);
    let line = |guest: &ProcessSummary| match &guest.cannot_move {
        Some(why) => format!("{}/{} ({}) cannot leave: {why}\n", guest.home, guest.pid, guest.comm),
        None => format!("{}/{} ({}) is to leave\n", guest.home, guest.pid, guest.comm),
    };
    guests.map(line).collect()
}

/// How it stands, in one line.
pub(super) fn sentence(node: &NodeSummary) -> String {
    let NodeSummary { node, guests, .. } = match &node.refuses_because {
        None => return format!("{} takes guests\n", node.node),
        Some(_) => node,
    };
    match guests {
        0 => format!("{node} has no guests and takes none\n"),
        left => format!("{node} takes no guests; {left} still here: `scx_mosix ps --all` lists them\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_reads_for_whom() {
        let process = |pid, home: &str, why: Option<&str>| ProcessSummary {
            pid,
            home: home.into(),
            runs_on: "n2".into(),
            comm: "xz".into(),
            cannot_move: why.map(str::to_owned),
            ..Default::default()
        };
        let all = [process(7, "n1", None), process(8, "n3", Some("it has a socket")), process(9, "n2", None)];
        assert_eq!(waits_for("n2", &all), "n1/7 (xz) is to leave\nn3/8 (xz) cannot leave: it has a socket\n");
        assert_eq!(waits_for("n4", &all), "");
    }

    #[test]
    fn a_sentence_says_how_it_stands() {
        let node = NodeSummary { node: "n2".into(), guests: 2, ..Default::default() };
        assert_eq!(sentence(&node), "n2 takes guests\n");
        let drained = NodeSummary { refuses_because: Some("it is being drained".into()), ..node };
        assert!(sentence(&drained).starts_with("n2 takes no guests; 2 still here"));
        assert_eq!(sentence(&NodeSummary { guests: 0, ..drained }), "n2 has no guests and takes none\n");
    }
}
