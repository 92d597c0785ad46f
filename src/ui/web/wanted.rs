//! What a page asks for.

use serde::Deserialize;

use crate::{
    api::{backend::ConstraintsChange, name::check_allowed},
    job::{JobId, SessionId},
    ui::{
        args::destination,
        top::{Action, AskedNode, SIGNALS},
    },
};

/// A command of a page. Programs are `n1/4711`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Wanted {
    /// To a node, `home` or `best`.
    Migrate { process: String, to: String },
    /// It moves only if someone asks, or by itself again.
    Stay { process: String, stay: bool },
    /// The only nodes beside home where it may run; none for any.
    Allow { process: String, nodes: Vec<String> },
    /// Gives a move up.
    Cancel { process: String, migration: String },
    /// A signal by its name, such as `TERM`.
    Signal { process: String, start_time_ms: Option<u64>, signal: String },
    /// The node that answers sends its guests away and takes no others, or ends that.
    Drain { node: String, on: bool },
    /// The node that answers sends its guests home, once.
    Expel { node: String },
}

impl Wanted {
    /// What is to be done.
    ///
    /// # Errors
    /// One sentence for what is not understood.
    pub fn action(self) -> Result<Action, String> {
        let job =
            |text: String| text.parse::<JobId>().map_err(|_| format!("{text} is no program: it must be NODE/PID"));
        let here = |name: String| AskedNode { name, address: None };
        let constrain = |program: JobId, stay: Option<bool>, allowed_nodes: Option<Vec<String>>| Action::Constrain {
            program,
            change: ConstraintsChange { stay, allowed_nodes },
        };
        Ok(match self {
            Self::Migrate { process, to } => Action::Migrate { program: job(process)?, to: destination(&to)? },
            Self::Stay { process, stay } => constrain(job(process)?, Some(stay), None),
            Self::Allow { process, nodes } => {
                let nodes = check_allowed(&nodes).map_err(|error| error.to_string())?;
                constrain(job(process)?, None, Some(nodes))
            }
            Self::Cancel { process, migration } => {
                let migration = migration.parse::<SessionId>().map_err(|_| format!("{migration} is no move"))?;
                Action::Cancel { program: job(process)?, migration }
            }
            Self::Signal { process, start_time_ms, signal } => {
                let offered = SIGNALS.iter().find(|(_, name)| *name == signal);
                let (signal, _) = offered.ok_or_else(|| format!("{signal} is no signal that can be sent from here"))?;
                Action::Signal { program: job(process)?, start_time_ms, signal: *signal }
            }
            Self::Drain { node, on } => Action::Drain { node: here(node), on },
            Self::Expel { node } => Action::Expel { node: here(node) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::backend::Destination;

    fn action(text: &str) -> Result<Action, String> {
        serde_json::from_str::<Wanted>(text).map_err(|error| error.to_string())?.action()
    }

    #[test]
    fn commands_are_understood() {
        let program = JobId::new("n1", 7);
        let migrate = |to| Ok(Action::Migrate { program: program.clone(), to });
        assert_eq!(action(r#"{"do":"migrate","process":"n1/7","to":"home"}"#), migrate(Destination::Home));
        assert_eq!(action(r#"{"do":"migrate","process":"n1/7","to":"N2"}"#), migrate(Destination::Node("n2".into())));
        let change = ConstraintsChange { stay: None, allowed_nodes: Some(vec!["n2".into()]) };
        let constrain = Ok(Action::Constrain { program: program.clone(), change });
        assert_eq!(action(r#"{"do":"allow","process":"n1/7","nodes":["n2"]}"#), constrain);
        let signal = action(r#"{"do":"signal","process":"n1/7","start_time_ms":5,"signal":"STOP"}"#).unwrap();
        assert!(matches!(signal, Action::Signal { start_time_ms: Some(5), .. }));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "",
            "{}",
            r#"{"do":"dance"}"#,
            r#"{"do":"migrate","process":"7","to":"n2"}"#,
            r#"{"do":"migrate","process":"n1/7","to":"n 2"}"#,
            r#"{"do":"migrate","process":"n1/7","to":"n2","more":1}"#,
            r#"{"do":"signal","process":"n1/7","start_time_ms":null,"signal":"SEGV"}"#,
            r#"{"do":"cancel","process":"n1/7","migration":"12"}"#,
            r#"{"do":"allow","process":"n1/7","nodes":["-"]}"#,
        ] {
            assert!(action(bad).is_err(), "{bad}");
        }
    }
}
