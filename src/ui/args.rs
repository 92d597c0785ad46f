//! The command line.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    api::{SOCKET_NAME, backend::Destination},
    job::{JobId, SessionId},
    keys::{DEFAULT_KEY_PATH, NodeName},
    metrics::MetricsAddress,
    node::{CpuCount, Limits},
};

mod read;
mod watch;

pub(super) use read::destination;
use read::{allowed, cancel_what, process};
pub use watch::{TopArgs, WaitArgs, WebArgs};

/// Names under which the binary is a command of its own, for those who know them.
const ALIASES: [(&str, &str); 4] = [("mosrun", "run"), ("mosps", "ps"), ("mosmon", "top"), ("migrate", "migrate")];

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 no daemon answers.
`run` gives the program's own, 126 if the program cannot be run, 127 if there is no such program.";

/// A few Linux machines that work as one: running programs move by themselves to where there is CPU
/// and memory.
///
/// Without a command this is the daemon, one on each machine, run as root.
#[derive(Clone, Debug, Parser)]
#[command(version, about, name = "scx_mosix", args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do; the daemon if nothing is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The daemon's options.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon (as without a command)
    Daemon(DaemonArgs),
    /// Run a program that may move to other machines
    Run(RunArgs),
    /// List the programs that `run` started, and where they are
    Ps(PsArgs),
    /// List the machines
    Nodes(ListArgs),
    /// Watch machines, programs and moves on the whole terminal, and command them
    Top(TopArgs),
    /// Serve a page that shows and commands machines, programs and moves, to a browser of this user
    Web(WebArgs),
    /// Move a program
    Migrate(MigrateArgs),
    /// Give up a move of a program that is under way
    Cancel(CancelArgs),
    /// Move a program only if someone asks, from now on
    #[command(visible_alias = "stay")]
    Lock(ProcessArgs),
    /// Let a program move by itself again
    #[command(visible_alias = "nostay")]
    Unlock(ProcessArgs),
    /// Say where a program may run
    Allow(AllowArgs),
    /// Bring programs home that are away
    Bring(BringArgs),
    /// Wait until programs have ended, wherever they run
    Wait(WaitArgs),
    /// Send guests of this machine home; others may come (root)
    Expel(ExpelArgs),
    /// Send the guests of this machine away, and take no others (root)
    Drain(DrainArgs),
    /// List the moves of programs, the newest first
    Migrations(ListArgs),
    /// List what happened in the cluster: nodes that came and went, moves that ended
    Events(EventsArgs),
    /// Say why a program is where it is
    Why(ProcessArgs),
    /// Say what this machine can do and what is missing
    Check(CheckArgs),
    /// Make the cluster's key, and certificates for clients
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print what a shell needs to complete these commands
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages; for packages
    #[command(hide = true)]
    Manual {
        /// Where to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// One job's agent at home; started by the daemon
    #[command(hide = true)]
    AgentHome,
    /// One guest's agent; started by the daemon
    #[command(hide = true)]
    AgentGuest,
    /// The kernel scheduler alone, without a cluster, until SIGINT or SIGTERM
    #[command(hide = true)]
    Scheduler(SchedulerArgs),
}

/// Options of the daemon.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// The cluster's key, the same on all machines [default: /etc/scx_mosix/key if there is one];
    /// without a key, no network
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// This machine's name in the cluster [default: the host name up to its first dot]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// Where to listen for the other machines, TCP and UDP [default: 0.0.0.0:7470]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Under which address the others reach this machine [default: found out]
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<IpAddr>,
    /// A machine of the cluster to join; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub join: Vec<String>,
    /// Settings, as TOML, for what is not said here [default: /etc/scx_mosix/config.toml if there
    /// is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve metrics at http://ADDR:PORT/metrics, at 127.0.0.1 if only a port is given
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub metrics: Option<MetricsAddress>,
    /// What this node may use.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Leave scheduling to the kernel's own scheduler
    #[arg(long)]
    pub no_sched_ext: bool,
    /// Move nothing unless someone asks
    #[arg(long)]
    pub no_balance: bool,
    /// What belongs to the running daemon
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// What a node may use, where that cannot be read from its cgroup, as in a namespace of a shared
/// machine.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LimitArgs {
    /// How many CPUs this node may use, such as 0.6, where that cannot be read from its cgroup
    #[arg(long, value_name = "FLOAT")]
    pub cpus: Option<CpuCount>,
    /// How much memory this node may use, in MiB, where that cannot be read from its cgroup
    #[arg(long = "memory", value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=u64::from(u32::MAX)))]
    pub memory_mib: Option<u64>,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        Self { cpus: args.cpus, memory_mib: args.memory_mib }
    }
}

/// Where the daemon's run-time files are.
#[derive(Clone, Debug, Args)]
pub struct RunDir {
    /// Where the daemon has its sockets
    #[arg(long = "run-dir", value_name = "DIR", default_value = "/run/scx_mosix")]
    pub path: PathBuf,
}

impl RunDir {
    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Never move it unless someone asks
    #[arg(long)]
    pub stay: bool,
    /// The only machines beside this one where it may run
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    pub nodes: Vec<NodeName>,
    /// Its class, of those in the daemon's settings: what holds for that holds for it
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How to write a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, cut to the terminal's width
    Table,
    /// More columns, nothing cut
    Wide,
    /// JSON, for programs
    Json,
}

/// What `ps` can sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// The user's name
    User,
    /// Where it runs
    Node,
    /// CPU time per time
    Cpu,
    /// Resident memory
    Rss,
    /// How often it was moved
    Moves,
    /// When it was started, the oldest first
    Age,
}

/// What all commands that list something take.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// How to write it
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Format,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// `events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Continue with what happens from now on, a line for each; with JSON an object
    #[arg(long, short)]
    pub follow: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// What the daemon is told.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `ps`.
#[derive(Clone, Debug, Args)]
pub struct PsArgs {
    /// Also the guests of other machines
    #[arg(long, short)]
    pub all: bool,
    /// Show descendants that are jobs of their own below the job that they came from
    #[arg(long)]
    pub tree: bool,
    /// Sort by this, the most first where it is a figure [default: by pid]
    #[arg(long, value_enum, value_name = "COLUMN", conflicts_with = "tree")]
    pub sort: Option<SortBy>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `migrate`.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: JobId,
    /// Where to: a machine, `home`, or `best`
    #[arg(value_name = "NODE|home|best", value_parser = destination)]
    pub to: Destination,
    /// Wait until it runs there
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `bring`.
#[derive(Clone, Debug, Args)]
pub struct BringArgs {
    /// The programs, by their pids [default: all that are away]
    #[arg(value_name = "PID", value_parser = process)]
    pub processes: Vec<JobId>,
    /// Wait until they are home
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `expel`.
#[derive(Clone, Debug, Args)]
pub struct ExpelArgs {
    /// The machines whose programs are to leave [default: all others]
    #[arg(value_name = "NODE")]
    pub nodes: Vec<NodeName>,
    /// Wait until they are home
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `cancel`.
#[derive(Clone, Debug, Args)]
pub struct CancelArgs {
    /// The program that is being moved: its pid, or NODE/PID for a guest of another machine; or the
    /// migration's id
    #[arg(value_name = "PID|MIGRATION", value_parser = cancel_what)]
    pub what: CancelWhat,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// What names a move to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelWhat {
    /// The program, whichever its migration.
    Process(JobId),
    /// The migration.
    Migration(SessionId),
}

/// What commands about one program take.
#[derive(Clone, Debug, Args)]
pub struct ProcessArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: JobId,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `allow`.
#[derive(Clone, Debug, Args)]
pub struct AllowArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: JobId,
    /// The only machines beside its home where it may run, or `any`
    #[arg(value_name = "NODE,…|any", value_parser = allowed)]
    pub nodes: AllowedNodes,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// The nodes where a program may run; empty for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedNodes(pub Vec<String>);

/// `drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Take guests again
    #[arg(long, conflicts_with = "wait")]
    pub undo: bool,
    /// Wait until none is left
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new key: copy it to all machines of the cluster
    Generate {
        /// Where to write it
        #[arg(long = "out", alias = "key", value_name = "FILE", default_value = DEFAULT_KEY_PATH)]
        out: PathBuf,
    },
    /// Make a certificate with which a client may use the API from another machine: ca.pem,
    /// client.pem, client-key.pem
    ClientCert {
        /// The directory for the three files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's key
        #[arg(long, value_name = "FILE", default_value = DEFAULT_KEY_PATH)]
        key: PathBuf,
        /// The client's name, which the daemons log
        #[arg(long, value_name = "NAME", default_value = "client")]
        name: NodeName,
    },
}

/// `scheduler`.
#[derive(Clone, Debug, Args)]
pub struct SchedulerArgs {
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub duration_s: Option<u64>,
}

/// The command line of this process; ends it with a message if that is wrong.
#[must_use]
pub fn parse() -> Cli {
    Cli::parse_from(expand(std::env::args_os().collect()))
}

/// Puts the command that argv[0] stands for behind it.
fn expand(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().and_then(|first| Path::new(first).file_name()).and_then(OsStr::to_str);
    if let Some((_, command)) = ALIASES.iter().find(|(alias, _)| Some(*alias) == name) {
        args.insert(1, OsString::from(*command));
    }
    args
}

#[cfg(test)]
mod tests;
