//! `drain`: this machine's guests leave, and no others come.

use std::{process::ExitCode, time::Duration};

use tokio::time::sleep;

use super::{
    UiError,
    args::{DrainArgs, Format},
    client, output,
};
use crate::api::view::NodeSummary;

/// Between two looks at how many guests are left: the daemon counts them each second.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn drain(args: &DrainArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let mut node = client.drain(!args.undo).await.map_err(&failed)?;
    while args.wait && node.guests > 0 {
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

/// How it stands, in one line.
fn sentence(node: &NodeSummary) -> String {
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
    fn a_sentence_says_how_it_stands() {
        let node = NodeSummary { node: "n2".into(), guests: 2, ..Default::default() };
        assert_eq!(sentence(&node), "n2 takes guests\n");
        let drained = NodeSummary { refuses_because: Some("it is being drained".into()), ..node };
        assert!(sentence(&drained).starts_with("n2 takes no guests; 2 still here"));
        assert_eq!(sentence(&NodeSummary { guests: 0, ..drained }), "n2 has no guests and takes none\n");
    }
}
