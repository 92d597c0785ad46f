//! Orders to programs and nodes: what is offered, what is asked before, what then is done.

use super::{
    Effect, Model, Pane, Program,
    action::{Action, AskedNode, SIGNALS, signal_name},
    dialog::{Dialog, Menu, Purpose},
    keys::BINDINGS,
    list::Listed,
};
use crate::{
    api::{
        backend::{ConstraintsChange, Destination},
        view::NodeState,
    },
    job::JobId,
    ui::output,
};

/// The items of the menu of targets that are no nodes.
const BEST: &str = "best";
const HOME: &str = "home";

impl Model {
    /// Carries out a key that is an order, or refuses it with a sentence.
    pub(super) fn order(&mut self, letter: char) {
        let is_order = BINDINGS.iter().any(|binding| binding.changes && binding.keys.starts_with(letter));
        if !is_order || letter == 'y' {
            return;
        }
        if self.rights.read_only {
            return self.say(Err("read-only: nothing is changed from here".into()));
        }
        match letter {
            'd' | 'x' => self.order_node(letter),
            _ => match self.chosen().map(|program| (program.row.name(), name(program))) {
                Some((program, name)) => self.order_program(letter, program, &name),
                None => self.say(Err("no program is chosen".into())),
            },
        }
    }

    fn order_program(&mut self, letter: char, id: JobId, name: &str) {
        let Some(program) = self.programs.get(&id) else { return };
        let row = &program.row;
        match letter {
            'm' => {
                let targets = self.targets(program);
                let menu = Menu::new(Purpose::Migrate(id), format!("Move {name} from {} to", row.runs_on), targets);
                self.dialog = Some(Dialog::Menu(menu));
            }
            'H' if !program.is_away() => self.say(Err(format!("{name} is at home"))),
            'H' => self.ask_to_move(&id, Destination::Home),
            'l' => {
                let change = ConstraintsChange { stay: Some(!row.constraints.stay), allowed_nodes: None };
                let what = if row.constraints.stay { "Let it move by itself again" } else { "Lock it where it is" };
                self.ask(format!("{what}: {name}?"), Action::Constrain { program: id, change });
            }
            'a' => {
                let mut nodes: Vec<String> = self.nodes.all().map(|node| node.row.node.clone()).collect();
                nodes.sort();
                let mut menu =
                    Menu::new(Purpose::Allow(id), format!("Where {name} may run; none marked: anywhere"), nodes);
                let allowed = &row.constraints.allowed_nodes;
                let items = menu.items.iter().enumerate();
                menu.marked = items.filter(|(_, node)| allowed.contains(node)).map(|(at, _)| at).collect();
                self.dialog = Some(Dialog::Menu(menu));
            }
            'c' => {
                let under_way = self.moves.all().find(|step| step.row.process == id && !step.row.is_over());
                match under_way.map(|step| (step.row.id, step.row.target.clone())) {
                    Some((migration, target)) => {
                        self.ask(
                            format!("Cancel the move of {name} to {target}?"),
                            Action::Cancel { program: id, migration },
                        );
                    }
                    None => self.say(Err(format!("{name} is not being moved"))),
                }
            }
            'k' if !self.rights.is_local || self.local.as_deref() != Some(&*row.home) => {
                let home = row.home.clone();
                self.say(Err(format!("signals are sent at a program's home: that is {home}")));
            }
            'k' => {
                let signals = SIGNALS.iter().map(|(signal, name)| format!("{name} ({})", signal.as_raw())).collect();
                self.dialog = Some(Dialog::Menu(Menu::new(Purpose::Signal(id), format!("Signal for {name}"), signals)));
            }
            _ => {}
        }
    }

    fn order_node(&mut self, letter: char) {
        let Some(node) = self.nodes.selected().filter(|_| self.focus == Pane::Nodes) else {
            return self.say(Err("choose a node first: key 1".into()));
        };
        let row = &node.row;
        let (name, guests) = (row.node.clone(), row.guests);
        let address = match (row.local, self.rights.has_credentials, row.address.clone()) {
            (true, ..) => None,
            (false, true, Some(address)) => Some(address),
            _ => return self.say(Err(format!("{name} is another machine: go there, or give --credentials"))),
        };
        let node = AskedNode { name: name.clone(), address };
        let is_drained = row.refuses_because.as_ref().is_some_and(|why| why.contains("drained"));
        match (letter, is_drained) {
            ('x', _) if guests == 0 => self.say(Err(format!("{name} has no guests"))),
            ('x', _) => self.ask(format!("Send the {guests} guests of {name} home?"), Action::Expel { node }),
            (_, true) => self.ask(format!("Let {name} take guests again?"), Action::Drain { node, on: false }),
            (_, false) => {
                let question = format!("Drain {name}: its {guests} guests leave, and no others come?");
                self.ask(question, Action::Drain { node, on: true });
            }
        }
    }

    fn ask(&mut self, question: String, action: Action) {
        self.dialog = Some(Dialog::Ask { question, action });
    }

    fn ask_to_move(&mut self, program: &JobId, to: Destination) {
        let Some(row) = self.programs.get(program) else { return };
        let target = match &to {
            Destination::Node(node) => node.clone(),
            Destination::Home => format!("{}, its home", row.row.home),
            Destination::Best => "where placement thinks it best".to_owned(),
        };
        let expected = match &to {
            Destination::Node(node) => self.why.expected_us(node),
            Destination::Home => self.why.expected_us(&row.row.home),
            Destination::Best => None,
        };
        let stopped = match expected {
            Some(us) => format!("It will probably stand still for {}.", output::duration_us(us)),
            None => "It stands still meanwhile.".to_owned(),
        };
        let question = format!("Move {} from {} to {target}? {stopped}", name(row), row.row.runs_on);
        self.ask(question, Action::Migrate { program: program.clone(), to });
    }

    /// Where a program could go: what placement thinks best first, then by load.
    fn targets(&self, program: &Program) -> Vec<String> {
        let here = &program.row.runs_on;
        let others = self.nodes.all().filter(|node| node.row.node != *here && node.row.state == NodeState::Alive);
        let cost = |node: &str| {
            let candidate = self.why.candidate(node)?;
            candidate.figures.iter().find(|figure| figure.name == "cost there").map(|figure| figure.value)
        };
        let mut nodes: Vec<(f64, f64, &str)> = others
            .map(|node| (cost(&node.row.node).unwrap_or(f64::INFINITY), node.row.load, node.row.node.as_str()))
            .collect();
        nodes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(b.2)));
        let home = program.is_away().then_some(HOME);
        let choices = [BEST].into_iter().chain(home).chain(nodes.into_iter().map(|(.., node)| node));
        choices.map(str::to_owned).collect()
    }

    /// What is known of an item of a menu, beside it.
    pub fn note(&self, menu: &Menu, item: &str) -> String {
        match &menu.purpose {
            Purpose::Migrate(program) => match item {
                BEST => "where placement thinks it best".into(),
                HOME => self.programs.get(program).map_or_else(String::new, |program| program.row.home.clone()),
                node => self.note_of_target(program, node),
            },
            Purpose::Allow(_) => self.load_of(item),
            Purpose::Sort(_) | Purpose::Signal(_) => String::new(),
        }
    }

    /// What placement thinks of a node as a target; its load as long as that is not known.
    fn note_of_target(&self, program: &JobId, node: &str) -> String {
        let candidate = self.why.candidate(node).filter(|_| self.why.program.as_ref() == Some(program));
        match candidate {
            Some(candidate) => output::clean(&candidate.text.replace('\n', " ")),
            None => self.load_of(node),
        }
    }

    fn load_of(&self, node: &str) -> String {
        let Some(node) = self.nodes.get(&node.to_owned()) else { return String::new() };
        let refuses = node.row.refuses_because.as_ref().map(|why| format!("; takes no guests: {why}"));
        let free = output::size(node.row.memory_available_bytes);
        output::clean(&format!("load {:.2}, {free} free{}", node.row.load, refuses.unwrap_or_default()))
    }

    /// An item of a menu was chosen.
    pub(super) fn chosen_in(&mut self, menu: &Menu, item: usize) -> Vec<Effect> {
        let text = menu.items.get(item).cloned().unwrap_or_default();
        match &menu.purpose {
            Purpose::Sort(_) => self.sort_by(Some(item)),
            Purpose::Migrate(program) => {
                let to = match text.as_str() {
                    BEST => Destination::Best,
                    HOME => Destination::Home,
                    _ => Destination::Node(text),
                };
                self.ask_to_move(program, to);
            }
            Purpose::Signal(program) => {
                let (Some((signal, _)), Some(row)) = (SIGNALS.get(item), self.programs.get(program)) else {
                    return Vec::new();
                };
                let question = format!("Send {} to {}?", signal_name(*signal), name(row));
                let (program, start_time_ms) = (program.clone(), row.row.start_time_ms);
                self.ask(question, Action::Signal { program, start_time_ms, signal: *signal });
            }
            Purpose::Allow(program) => {
                let nodes: Vec<String> = menu.marked.iter().filter_map(|at| menu.items.get(*at)).cloned().collect();
                let change = ConstraintsChange { stay: None, allowed_nodes: Some(nodes) };
                return vec![Effect::Act(Action::Constrain { program: program.clone(), change })];
            }
        }
        Vec::new()
    }
}

/// A program in a sentence: its name, and the beginning of its command.
fn name(program: &Program) -> String {
    let row = &program.row;
    format!("{} ({})", program.key(), output::clean(&row.comm))
}
