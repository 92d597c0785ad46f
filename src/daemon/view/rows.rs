//! What the API shows of jobs and nodes. Pure but for reading /proc of the processes shown.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::View;
use crate::{
    api::view::{NodeState, NodeSummary, Pressure, ProcessState, ProcessSummary, SchedExt},
    cluster::{self, ClusterView, NodeEntry},
    daemon::{
        collect::figures::Figures,
        missing, scheduler_note,
        shared::{
            agents::{GuestView, HomeView},
            draining,
            jobs::Job,
        },
    },
    job::{JobId, SessionId},
    node::SchedExtState,
    scheduler::State,
    sys::proc::comm,
};

impl View<'_> {
    /// The rows of all jobs whose home is here and of all guests, with their current or last
    /// migrations.
    pub fn process_rows(&self, migrations: &HashMap<JobId, SessionId>) -> Vec<ProcessSummary> {
        let (users, jobs) = (users(), self.shared.jobs().iter().cloned().collect::<Vec<Job>>());
        let measured = self.collected.measured();
        let context = self.context(&measured.figures, &users, migrations);
        let mut rows: Vec<ProcessSummary> = Vec::new();
        for job in &jobs {
            let home = self.agents.homes.get(&job.session);
            let hosted_here = self.agents.guests.values().find(|guest| guest.job.session == job.session);
            let here = hosted_here.map(|guest| context.guest(guest));
            let away = here.as_ref().or_else(|| measured.away(job.root_pid));
            let cannot_move = measured.cannot_move.get(&job.session).cloned();
            rows.push(context.job(job, home, away, cannot_move));
        }
        let guests = self.agents.guests.values().filter(|guest| !guest.job.id.is_of(&self.shared.node));
        rows.extend(guests.map(|guest| context.guest(guest)));
        rows
    }

    /// The row of a job that has just been registered.
    pub fn new_row(&self, job: &Job) -> ProcessSummary {
        let measured = self.collected.measured();
        self.context(&measured.figures, &users(), &HashMap::new()).job(job, None, None, None)
    }

    fn context<'c>(
        &'c self,
        figures: &'c HashMap<PathBuf, Figures>,
        users: &'c HashMap<u32, String>,
        migrations: &'c HashMap<JobId, SessionId>,
    ) -> RowContext<'c> {
        let (node, memory_bytes) = (&*self.shared.node, self.shared.info.memory_total_bytes);
        RowContext { node, memory_bytes, figures, users, migrations }
    }

    /// The rows of all nodes.
    pub fn node_rows(&self) -> Vec<NodeSummary> {
        let shared = self.shared;
        // Each lock is released before the next is taken: what is borrowed in an expression is held
        // to the end of its statement.
        let jobs = shared.jobs().iter().count();
        let scheduler = shared.scheduler.borrow().clone();
        let own = Own {
            jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
            sched_ext_note: scheduler_note(&scheduler),
            sched_ext: sched_ext(&scheduler, shared.info.features.sched_ext),
            criu_version: shared.info.features.criu.map(|version| version.to_string()),
            missing: missing(&shared.info),
            cpu_busy_percent: self.collected.measured().cpu_busy_percent,
            start_time_ms: shared.start_time_ms,
            refuses_because: shared.draining.is_on().then(|| draining::REFUSAL.into()),
        };
        nodes(&shared.cluster.view(), &own, shared.address.is_some())
    }
}

/// What a row of a job is made of, beside the job itself.
struct RowContext<'a> {
    /// This node's name.
    node: &'a str,
    /// This node's memory in bytes.
    memory_bytes: u64,
    /// What the jobs' processes use, by cgroup.
    figures: &'a HashMap<PathBuf, Figures>,
    /// Users' names.
    users: &'a HashMap<u32, String>,
    /// The current or last migration of each job.
    migrations: &'a HashMap<JobId, SessionId>,
}

impl RowContext<'_> {
    /// The row of a job whose home is here. `away` is what the hosting node says of it.
    fn job(
        &self,
        job: &Job,
        home: Option<&HomeView>,
        away: Option<&ProcessSummary>,
        cannot_move: Option<String>,
    ) -> ProcessSummary {
        let name = JobId::new(self.node, job.root_pid);
        let runs_on = home.map_or_else(|| self.node.to_owned(), |home| home.runs_on.clone());
        let mut row = if runs_on == self.node && home.is_none_or(|home| home.epoch == 0) {
            self.figures_of(job.root_pid, &job.cgroup)
        } else {
            away.cloned().unwrap_or_default()
        };
        // The deputy bears the program's name and arguments, so what home sees of it is right
        // wherever it runs.
        row.comm = comm(job.root_pid);
        row.command_line = command_line(job.root_pid);
        row.pid = job.root_pid;
        row.home = self.node.into();
        row.runs_on = runs_on;
        row.part_of = job.part_of;
        row.uid = job.uid;
        row.user = self.user(job.uid);
        row.moves = home.map_or(0, |home| u32::try_from(home.epoch).unwrap_or(u32::MAX));
        row.visited = home.map_or_else(|| vec![self.node.to_owned()], |home| home.visited.clone());
        if home.is_some_and(|home| home.moving) {
            row.state = ProcessState::Moving;
        } else if home.is_some_and(|home| home.ended) {
            row.state = ProcessState::Ended;
        }
        row.cannot_move = cannot_move.or_else(|| away.and_then(|away| away.cannot_move.clone()));
        row.constraints = job.constraints.clone();
        row.migration = self.migrations.get(&name).copied();
        row
    }

    /// The row of a guest.
    fn guest(&self, guest: &GuestView) -> ProcessSummary {
        let mut row = self.figures_of(guest.host_pid, &guest.cgroup);
        row.comm = comm(guest.host_pid);
        row.command_line = command_line(guest.host_pid);
        row.pid = guest.job.id.pid;
        row.home = guest.job.id.home.to_string();
        row.part_of = guest.job.spec.tree.filter(|root| *root != row.pid);
        row.runs_on = self.node.into();
        row.user = self.user(row.uid);
        row.moves = u32::try_from(guest.epoch).unwrap_or(u32::MAX);
        row.visited = vec![row.home.clone(), self.node.into()];
        if guest.moving {
            row.state = ProcessState::Moving;
        }
        row.cannot_move.clone_from(&guest.cannot_move);
        row.constraints = guest.job.constraints.clone();
        // What it had before it came here is part of its life too.
        row.usage.counters += guest.job.history.counters;
        row.migration = self.migrations.get(&guest.job.id).copied();
        row
    }

    fn figures_of(&self, root: i32, cgroup: &Path) -> ProcessSummary {
        let figures = self.figures.get(cgroup).cloned().unwrap_or_default();
        let share = figures.usage.resident_bytes as f64 * 100.0 / self.memory_bytes.max(1) as f64;
        ProcessSummary {
            state: state(figures.root_state(root)),
            uid: figures.root_uid(root).unwrap_or_default(),
            cwd: fs::read_link(format!("/proc/{root}/cwd")).map_or_else(|_| String::new(), |p| p.display().to_string()),
            cpu_percent: f64::from(figures.cpu_milli) / 10.0,
            usage: figures.usage,
            memory_percent: share,
            start_time_ms: figures.start_time_ms,
            ..ProcessSummary::default()
        }
    }

    fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    words.pop_if(|last| last.is_empty());
    words
}

fn state(letter: Option<char>) -> ProcessState {
    match letter {
        Some('R') => ProcessState::Running,
        Some('S' | 'D' | 'I') => ProcessState::Sleeping,
        Some('T' | 't') => ProcessState::Stopped,
        Some('Z' | 'X') => ProcessState::Ended,
        _ => ProcessState::Unknown,
    }
}

/// The users' names of /etc/passwd. Name services are not asked: a figure in the list is no reason
/// to wait for a network.
fn users() -> HashMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(parse).collect()
}

/// What this node knows better of itself than gossip tells.
struct Own {
    /// Jobs whose home is here.
    jobs: u32,
    /// Why the scheduler is not attached.
    sched_ext_note: Option<String>,
    /// What the scheduler does now; gossip tells it a second later.
    sched_ext: SchedExt,
    /// The version of CRIU.
    criu_version: Option<String>,
    /// What this node cannot do.
    missing: Vec<String>,
    /// How busy the CPUs were.
    cpu_busy_percent: f64,
    /// When the daemon was started, in ms since the epoch.
    start_time_ms: u64,
    /// Why it takes no guests, if its administrator does not want any.
    refuses_because: Option<String>,
}

/// The rows of all nodes.
fn nodes(view: &ClusterView, own: &Own, has_port: bool) -> Vec<NodeSummary> {
    let row = |entry: &NodeEntry| {
        let local = entry.name == view.me;
        let row = node(entry, local, own, has_port);
        // Of itself a node knows everything at once.
        let of_gossip = |age_ms| if local { 0 } else { age_ms };
        NodeSummary {
            expected_age_ms: of_gossip(view.gossip.average_age_ms),
            expected_max_age_ms: of_gossip(view.gossip.maximal_age_ms),
            ..row
        }
    };
    view.entries.iter().map(row).collect()
}

fn node(entry: &NodeEntry, local: bool, own: &Own, has_port: bool) -> NodeSummary {
    let mut row = NodeSummary {
        node: entry.name.to_string(),
        state: match entry.state {
            cluster::NodeState::Alive => NodeState::Alive,
            cluster::NodeState::Suspect => NodeState::Suspect,
            cluster::NodeState::Left => NodeState::Leaving,
            cluster::NodeState::Down => NodeState::Dead,
        },
        local,
        address: has_port.then(|| entry.addr.to_string()),
        ..NodeSummary::default()
    };
    if let Some(report) = &entry.report {
        let (summary, load) = (&report.summary, &report.load);
        let pressure = load.pressure.unwrap_or_default();
        row.version.clone_from(&summary.software_version);
        row.cpus = summary.cpus;
        row.cpu_speed = f64::from(summary.speed_permille) / 1_000.0;
        row.cpu_features_hash = format!("{:016x}", summary.features_hash);
        row.load = f64::from(load.load_milli) / 1_000.0;
        row.memory_total_bytes = summary.memory_total_bytes;
        row.memory_available_bytes = load.memory_free_bytes;
        row.pressure = Pressure {
            cpu_some_percent: f64::from(pressure.cpu_some_centi) / 100.0,
            memory_some_percent: f64::from(pressure.memory_some_centi) / 100.0,
            memory_full_percent: f64::from(pressure.memory_full_centi) / 100.0,
            io_some_percent: f64::from(pressure.io_some_centi) / 100.0,
        };
        row.guests = load.guests;
        row.refuses_because = match (summary.can_migrate, load.accepting) {
            (false, _) => Some("something that hosting needs is missing there: `scx_mosix check` says what".into()),
            (true, false) => Some("no guests while it is being drained or its daemon stops".into()),
            (true, true) => None,
        };
        row.kernel_release.clone_from(&summary.kernel_release);
        row.sched_ext = match summary.sched_ext {
            SchedExtState::Attached => SchedExt::Attached,
            SchedExtState::Available | SchedExtState::Ejected => SchedExt::Detached,
            SchedExtState::Unsupported => SchedExt::Unsupported,
        };
        row.age_ms = if local { 0 } else { report.age_ms };
    }
    if local {
        row.jobs = own.jobs;
        row.sched_ext = own.sched_ext;
        row.sched_ext_note.clone_from(&own.sched_ext_note);
        row.criu_version.clone_from(&own.criu_version);
        row.missing.clone_from(&own.missing);
        row.cpu_busy_percent = own.cpu_busy_percent;
        row.start_time_ms = Some(own.start_time_ms);
        row.refuses_because = own.refuses_because.clone().or(row.refuses_because);
    }
    row
}

/// What a scheduler in this state does, on a kernel that has sched_ext or not.
fn sched_ext(scheduler: &State, kernel: SchedExtState) -> SchedExt {
    match scheduler {
        State::Running { .. } => SchedExt::Attached,
        State::Ejected { .. } => SchedExt::Detached,
        State::Off { .. } if kernel == SchedExtState::Unsupported => SchedExt::Unsupported,
        State::Off { .. } => SchedExt::Disabled,
        State::Unsupported { .. } => SchedExt::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::shared::agents::AgentView,
        job::{Constraints, JobRecord},
        protocol::AgentState,
    };

    /// A user who has just read that it is attached is told the same by the list of nodes.
    #[test]
    fn a_node_knows_at_once_what_its_scheduler_does() {
        let of_kernel = |state: &State| sched_ext(state, SchedExtState::Available);
        let (now, reason) = (std::time::SystemTime::now(), String::new());
        assert_eq!(of_kernel(&State::Running { since: now }), SchedExt::Attached);
        assert_eq!(of_kernel(&State::Ejected { reason: reason.clone(), retry_at: now }), SchedExt::Detached);
        assert_eq!(of_kernel(&State::Unsupported { reason: reason.clone() }), SchedExt::Unsupported);
        assert_eq!(of_kernel(&State::Off { reason: reason.clone() }), SchedExt::Disabled);
        assert_eq!(sched_ext(&State::Off { reason }, SchedExtState::Unsupported), SchedExt::Unsupported);
    }

    #[test]
    fn what_may_be_done_with_a_guest_is_known_to_its_host() {
        let migration = SessionId::random();
        let state = |stay: bool| AgentState::Guest {
            migration,
            job: Box::new(JobRecord {
                constraints: Constraints { stay, allowed_nodes: vec!["n2".into()] },
                ..crate::job::tests::record("n1", 7)
            }),
            host_pid: Some(700),
            cgroup: "/nonexistent".into(),
            epoch: Some(1),
            moving: None,
            cannot_move: None,
        };
        let (figures, users, migrations) = (HashMap::new(), HashMap::new(), HashMap::new());
        let context =
            RowContext { node: "n2", memory_bytes: 1, figures: &figures, users: &users, migrations: &migrations };
        for stay in [true, false] {
            let view = AgentView::new([state(stay)]);
            assert_eq!(view.guests[&migration].job.constraints.stay, stay);
            let Constraints { stay: shown, allowed_nodes } = context.guest(&view.guests[&migration]).constraints;
            assert_eq!((shown, allowed_nodes), (stay, vec!["n2".to_owned()]));
        }
    }
}
