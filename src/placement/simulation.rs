//! A small cluster on virtual time: every node has its own placement and sees the others by delayed
//! gossip, loads rise as MOSIX's do and are noisy, moves take seconds. It must spread the jobs, go
//! still, and bring guests home.

use super::tests::{job, node, with};
use super::*;

const STEP_MS: u64 = 1_000;
const GOSSIP_DELAY_STEPS: usize = 2;
const MOVE_MS: u64 = 3_000;

struct SimJob {
    view: JobView,
    /// Where it goes and when it is there.
    moving: Option<(NodeName, u64)>,
}

struct World {
    now_ms: u64,
    nodes: Vec<NodeView>,
    placements: Vec<Placement>,
    jobs: Vec<SimJob>,
    /// Each node's load and weight after each step, for the delayed view.
    history: Vec<Vec<(u32, u64)>>,
    moves: Vec<(u64, JobId, NodeName, Cause)>,
    /// The most jobs that a node ever had.
    most_at_once: u32,
    noise: u64,
}

impl World {
    fn new(nodes: Vec<NodeView>) -> Self {
        let placements = nodes.iter().map(|_| Placement::new(Config::default()).unwrap()).collect();
        Self {
            now_ms: 0,
            nodes,
            placements,
            jobs: Vec::new(),
            history: Vec::new(),
            moves: Vec::new(),
            most_at_once: 0,
            noise: 7,
        }
    }

    fn start(&mut self, home: &str, count: usize) {
        for _ in 0..count {
            let id = format!("{home}/{}", 100 + self.jobs.len());
            let view = with(job(&id, home, home), |job| {
                job.history.demand_milli = 0;
                job.history.counters.cpu_ns = 0;
                job.history.age_ms = 0
            });
            self.jobs.push(SimJob { view, moving: None });
        }
    }

    fn end(&mut self, node: &str, count: usize) {
        for _ in 0..count {
            let index = self.jobs.iter().position(|job| &*job.view.running_on == node).unwrap();
            self.jobs.remove(index);
        }
    }

    /// ±3 %, deterministic.
    fn noisy(&mut self, value: f64) -> f64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value * (0.97 + 0.06 * ((self.noise >> 33) % 1_000) as f64 / 1_000.0)
    }

    fn count(&self, node: &str) -> usize {
        self.jobs.iter().filter(|job| &*job.view.running_on == node).count()
    }

    fn counts(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| self.count(&node.name)).collect()
    }

    fn input(&self, here: usize) -> Input {
        let mut nodes = self.nodes.clone();
        for (index, node) in nodes.iter_mut().enumerate() {
            let delay = if index == here { 1 } else { GOSSIP_DELAY_STEPS };
            let seen = self.history.len().checked_sub(delay).and_then(|at| self.history.get(at));
            (node.load_milli, node.weight_nano) = seen.map_or((0, 0), |loads| loads[index]);
            node.age_ms = if index == here { 0 } else { GOSSIP_DELAY_STEPS as u64 * STEP_MS };
        }
        let name = self.nodes[here].name.clone();
        let here_jobs = self.jobs.iter().filter(|job| job.view.running_on == name);
        let in_flight = self.jobs.iter().filter_map(|job| {
            let (target, _) = job.moving.clone()?;
            let flight = InFlight { job: job.view.id().clone(), source: job.view.running_on.clone(), target };
            (flight.source == name || flight.target == name).then_some(flight)
        });
        Input {
            here: name.clone(),
            now_ms: self.now_ms,
            nodes,
            jobs: here_jobs.map(|job| job.view.clone()).collect(),
            in_flight: in_flight.collect(),
            draining: false,
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let share_ms =
            |node: &NodeView| STEP_MS * u64::from(node.cpus) / self.count(&node.name).max(node.cpus as usize) as u64;
        let shares: Vec<(NodeName, u64)> = self.nodes.iter().map(|node| (node.name.clone(), share_ms(node))).collect();
        for job in &mut self.jobs {
            let view = &mut job.view;
            let history = &mut view.record.history;
            history.age_ms += STEP_MS;
            let share_ms = shares.iter().find(|(name, _)| *name == view.running_on).unwrap().1;
            history.counters.cpu_ns += share_ms * 1_000_000;
            history.demand_milli = (5 * history.demand_milli + 3 * 1_000).div_ceil(8);
            view.since_last_move_ms = view.since_last_move_ms.map(|since| since + STEP_MS);
            if let Some((target, at_ms)) = &job.moving
                && *at_ms <= self.now_ms
            {
                view.running_on = target.clone();
                view.since_last_move_ms = Some(0);
                job.moving = None;
            }
        }
        let mut loads = Vec::new();
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].clone();
            let now = self.count(&node.name) as f64 * 1_000.0 * 1_000.0 / f64::from(node.speed_milli * node.cpus);
            let now = self.noisy(now);
            let old = self.history.last().map_or(0.0, |loads| f64::from(loads[index].0));
            let load = if now > old { (5.0 * old + 3.0 * now) / 8.0 } else { now };
            let here = self.jobs.iter().filter(|job| job.view.running_on == node.name);
            let weight: f64 = here.map(|job| job.view.load(Config::default().young_ms).weight).sum();
            loads.push((load as u32, (weight * 1e9) as u64));
        }
        self.history.push(loads);
        // All nodes decide on what they saw before any of them acted.
        let inputs: Vec<Input> = (0..self.nodes.len()).map(|index| self.input(index)).collect();
        for (here, input) in inputs.iter().enumerate() {
            for decision in self.placements[here].decide(input, self.now_ms) {
                if let Action::Move { target, cause } = decision.action {
                    self.carry_out(here, &decision.job, &target, cause, decision.limit_milli);
                }
            }
        }
        let most = self.counts().into_iter().max().unwrap_or(0);
        self.most_at_once = self.most_at_once.max(u32::try_from(most).unwrap());
    }

    fn carry_out(&mut self, here: usize, id: &JobId, target: &NodeName, cause: Cause, limit_milli: Option<u32>) {
        let there = self.nodes.iter().position(|node| node.name == *target).unwrap();
        let input = self.input(there);
        let now_ms = self.now_ms;
        let job = self.jobs.iter_mut().find(|job| job.view.id() == id).unwrap();
        if self.placements[there].admit(&input, &job.view, cause, limit_milli).is_ok() {
            job.moving = Some((target.clone(), now_ms + MOVE_MS));
            self.moves.push((now_ms, job.view.id().clone(), target.clone(), cause));
        } else {
            self.placements[here].busy(id, target, now_ms, 0);
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.step();
        }
    }
}

fn cluster(cpus: &[(u32, u32)]) -> World {
    let nodes = cpus.iter().enumerate();
    World::new(
        nodes
            .map(|(i, (cpus, speed_milli))| NodeView {
                cpus: *cpus,
                speed_milli: *speed_milli,
                ..node(&format!("n{}", i + 1), 0)
            })
            .collect(),
    )
}

#[test]
fn eight_jobs_spread_over_three_nodes_and_go_still() {
    let mut world = cluster(&[(1, 1_000); 3]);
    world.start("n1", 8);
    world.run(90);
    let mut counts = world.counts();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3], "{:?}", world.moves);
    assert!(world.moves.len() <= 8, "five moves are enough, two more as ages differ: {:?}", world.moves);
    let before = world.moves.len();
    world.run(600);
    assert_eq!(world.moves.len(), before, "no move without need: {:?}", world.moves);
}

#[test]
fn a_job_alone_stays_even_beside_larger_and_idle_nodes() {
    let mut world = cluster(&[(1, 1_000), (8, 1_000), (64, 1_000)]);
    world.start("n1", 1);
    world.run(120);
    assert_eq!(world.moves, []);
}

#[test]
fn a_node_of_double_speed_gets_double_the_jobs() {
    let mut world = cluster(&[(1, 1_000), (1, 1_000), (1, 2_000)]);
    world.start("n1", 8);
    world.run(120);
    assert_eq!(world.counts(), [2, 2, 4], "{:?}", world.moves);
}

#[test]
fn many_sources_do_not_stampede_onto_one_idle_node() {
    let mut world = cluster(&[(1, 1_000); 6]);
    for home in ["n1", "n2", "n3", "n4", "n5"] {
        world.start(home, 4);
    }
    let mut most_at_idle = 0;
    for _ in 0..180 {
        world.step();
        most_at_idle = most_at_idle.max(world.count("n6"));
    }
    assert!((3..=4).contains(&most_at_idle), "{most_at_idle} at n6: {:?}", world.moves);
    assert_eq!(world.most_at_once, 4, "{:?}", world.moves);
    assert!(world.moves.len() <= 6, "{:?}", world.moves);
}

#[test]
fn guests_go_home_when_home_is_idle_again() {
    let mut world = cluster(&[(1, 1_000); 3]);
    world.start("n1", 6);
    world.run(90);
    assert_eq!(world.counts(), [2, 2, 2], "{:?}", world.moves);
    world.end("n1", 2);
    world.end("n2", 1);
    world.end("n3", 1);
    let before = world.moves.len();
    world.run(60);
    let causes: Vec<Cause> = world.moves[before..].iter().map(|(_, _, _, cause)| *cause).collect();
    assert_eq!(causes, [Cause::Home], "one comes home, where it is alone: {:?}", &world.moves[before..]);
    assert_eq!(world.count("n1"), 1);
    world.end("n1", 1);
    world.run(60);
    assert_eq!(world.counts(), [1, 0, 0], "{:?}", world.moves);
}

#[test]
fn large_unequal_nodes_settle_without_ping_pong() {
    let mut world = cluster(&[(8, 1_000), (2, 800), (4, 1_500)]);
    world.start("n1", 24);
    world.run(240);
    // More than a CPU's worth of what any of them would gain by moving is not left.
    let tasks: Vec<f64> =
        world.nodes.iter().map(|node| world.count(&node.name) as f64 / f64::from(node.cpus)).collect();
    assert!(tasks[2] > tasks[0] && tasks[0] > tasks[1], "the faster the CPU, the more tasks: {tasks:?}");
    let before = world.moves.len();
    world.run(1_200);
    assert_eq!(&world.moves[before..], []);
    let moves_of = |job: &SimJob| world.moves.iter().filter(|(_, id, ..)| id == job.view.id()).count();
    assert!(world.jobs.iter().all(|job| moves_of(job) <= 2), "{:?}", world.moves);
}
