//! `bring` and `expel`: programs go home.

use std::process::ExitCode;

use super::{
    UiError,
    args::{BringArgs, ExpelArgs, Format, ListArgs},
    client,
    error::FAILED,
    migrate::sentence,
    output,
};
use crate::{
    api::{
        CallError, Client,
        backend::Destination,
        view::{MigrationSummary, ProcessSummary},
    },
    job::JobId,
    keys::NodeName,
    protocol::MoveState,
};

pub(super) async fn bring(args: &BringArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let programs = if args.processes.is_empty() {
        let home = client.local_node().await.map_err(&failed)?.node;
        away(&client.list_processes(Some(&home)).await.map_err(&failed)?)
    } else {
        args.processes.clone()
    };
    let sent = send_home(&mut client, programs, args.wait).await.map_err(&failed)?;
    tell(&sent, &args.list, "no program is away\n")
}

pub(super) async fn expel(args: &ExpelArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let here = client.local_node().await.map_err(&failed)?.node;
    let programs = guests(&client.list_processes(None).await.map_err(&failed)?, &here, &args.nodes);
    let sent = send_home(&mut client, programs, args.wait).await.map_err(&failed)?;
    tell(&sent, &args.list, "there are no such guests\n")
}

/// The programs that are not where their home is.
fn away(all: &[ProcessSummary]) -> Vec<JobId> {
    all.iter().filter(|row| row.runs_on != row.home).map(ProcessSummary::name).collect()
}

/// The guests of node `here`; those of `homes` only, unless that is empty.
pub(super) fn guests(all: &[ProcessSummary], here: &str, homes: &[NodeName]) -> Vec<JobId> {
    let is_wanted = |row: &&ProcessSummary| {
        row.runs_on == here
            && row.home != here
            && (homes.is_empty() || homes.iter().any(|home| home.as_str() == row.home))
    };
    all.iter().filter(is_wanted).map(ProcessSummary::name).collect()
}

/// What came of each program.
pub(super) type Sent = Vec<(JobId, Result<MigrationSummary, CallError>)>;

/// Asks for all moves first, and then waits for them if that is wanted. A program that cannot go
/// keeps none from going.
///
/// # Errors
/// [`CallError::Unreachable`]: then nothing more can be asked for.
pub(super) async fn send_home(client: &mut Client, programs: Vec<JobId>, wait: bool) -> Result<Sent, CallError> {
    let mut sent = Sent::new();
    for program in programs {
        match client.migrate(&program, &Destination::Home).await {
            Err(error @ CallError::Unreachable { .. }) => return Err(error),
            migration => sent.push((program, migration)),
        }
    }
    if wait {
        for (_, migration) in &mut sent {
            if let Ok(begun) = migration {
                *migration = client.follow_migration(begun, |_| {}).await;
            }
        }
    }
    Ok(sent)
}

fn tell(sent: &Sent, list: &ListArgs, none: &str) -> Result<ExitCode, UiError> {
    let went = |migration: &MigrationSummary| !matches!(migration.state, MoveState::Aborted | MoveState::Failed);
    output::print(&match list.output {
        Format::Json => output::json(&sent.iter().filter_map(|(_, sent)| sent.as_ref().ok()).collect::<Vec<_>>())?,
        _ if sent.is_empty() => none.to_owned(),
        Format::Table | Format::Wide => {
            let moved = sent.iter().filter_map(|(_, sent)| sent.as_ref().ok());
            output::clean(&moved.map(sentence).collect::<String>())
        }
    })?;
    for (program, error) in sent.iter().filter_map(|(program, sent)| Some((program, sent.as_ref().err()?))) {
        eprintln!("scx_mosix: {program} does not go home: {error}");
    }
    let all_went = sent.iter().all(|(_, sent)| sent.as_ref().is_ok_and(went));
    Ok(if all_went { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(home: &str, pid: i32, runs_on: &str) -> ProcessSummary {
        ProcessSummary { home: home.into(), pid, runs_on: runs_on.into(), ..ProcessSummary::default() }
    }

    #[test]
    fn guests_are_chosen_by_their_home() {
        let all = [row("n1", 1, "n2"), row("n3", 2, "n2"), row("n2", 3, "n2"), row("n2", 4, "n1")];
        let named = |homes: &[&str]| {
            let homes: Vec<NodeName> = homes.iter().map(|home| home.parse().unwrap()).collect();
            guests(&all, "n2", &homes).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(named(&[]), ["n1/1", "n3/2"]);
        assert_eq!(named(&["n3"]), ["n3/2"]);
        assert!(named(&["n2"]).is_empty());
    }

    #[test]
    fn only_programs_that_are_away_are_brought() {
        assert_eq!(away(&[row("n1", 1, "n1"), row("n1", 2, "n3")]), [JobId::new("n1", 2)]);
    }
}
