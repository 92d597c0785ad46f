//! What events make of the model.

use crossterm::event::{KeyCode, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use rustix::process::Signal;

use super::*;
use crate::{
    api::backend::{ConstraintsChange, Destination},
    api::view::ProcessSummary,
    ui::top::fixture::{LOCAL, change, empty, ended, key, press, program, reasons, small, whole},
};

/// The pids of the programs in the order on the screen.
fn pids(model: &mut Model) -> Vec<i32> {
    model.arrange();
    model.programs.on_screen(100).map(|(_, program, _)| program.row.pid).collect()
}

fn chosen_pid(model: &mut Model) -> Option<i32> {
    model.arrange();
    model.chosen().map(|program| program.row.pid)
}

fn pick(model: &mut Model, pid: i32) {
    model.programs.select(&JobId::new("n1", pid), 10);
}

fn program_1(pid: i32) -> JobId {
    JobId::new("n1", pid)
}

#[test]
fn programs_are_sorted_by_any_column_both_ways() {
    let mut model = small(LOCAL);
    assert_eq!(pids(&mut model), [77, 900, 4711, 4720, 12345]);
    press(&mut model, "P");
    assert_eq!(pids(&mut model), [4711, 4720, 77, 900, 12345], "figures from the greatest");
    press(&mut model, "I");
    assert_eq!(pids(&mut model), [12345, 900, 77, 4720, 4711]);
    model.update(key(KeyCode::F(6)));
    press(&mut model, "comm\n");
    assert_eq!(pids(&mut model), [4720, 77, 900, 12345, 4711]);
}

#[test]
fn a_filter_takes_words_columns_and_comparisons() {
    let mut model = small(LOCAL);
    for (filter, left) in [
        ("ZSTD", vec![4711]),
        ("12345", vec![12345]),
        ("node=n1 cpu>20", vec![77, 4720]),
        ("cpu%<1", vec![12345]),
        ("home:n3", vec![77]),
        ("rss>80M", vec![77, 900, 4711, 4720, 12345]),
        ("rss>1G", vec![]),
        ("age>3600 cwd:srv", vec![77]),
        ("/srv user:ANNA", vec![77]),
        ("cpu>", vec![77, 900, 4711, 4720, 12345]),
        ("no:thing", vec![]),
    ] {
        press(&mut model, "/");
        for _ in 0..model.programs.filter().len() {
            model.update(key(KeyCode::Backspace));
        }
        press(&mut model, filter);
        press(&mut model, "\n");
        assert_eq!(pids(&mut model), left, "{filter}");
    }
    press(&mut model, "\x1b");
    assert_eq!(pids(&mut model).len(), 5, "Esc shows all again");
    press(&mut model, "/zstd\x1b");
    assert_eq!(model.programs.filter(), "", "Esc leaves it as it was");
}

#[test]
fn the_chosen_program_stays_chosen_when_rows_change() {
    let mut model = small(LOCAL);
    press(&mut model, "P");
    pick(&mut model, 900);
    model.update(Event::Programs(change(vec![program(900, "n1", "render", 100.0)], vec![])));
    assert_eq!((pids(&mut model)[0], chosen_pid(&mut model)), (900, Some(900)));
    model.update(Event::Programs(change(vec![], vec![program_1(900)])));
    assert_eq!(chosen_pid(&mut model), Some(4711), "its neighbour");
}

#[test]
fn a_followed_program_stays_in_view_until_it_ends() {
    let mut model = empty(LOCAL);
    let rows = |first: i32| (first..first + 300).map(|pid| program(pid, "n1", "x", f64::from(pid))).collect();
    model.update(Event::Programs(whole::<ProcessSummary, JobId>(rows(1_000))));
    press(&mut model, "P");
    pick(&mut model, 1_299);
    press(&mut model, "F");
    model.update(Event::Programs(change(rows(2_000), vec![])));
    model.arrange();
    let height = model.layout().rows(Pane::Programs);
    assert!(model.programs.on_screen(height).any(|(_, row, chosen)| chosen && row.row.pid == 1_299));
    model.update(Event::Programs(change(vec![], vec![program_1(1_299)])));
    assert_eq!(model.followed, None);
    assert_eq!(model.message, Some(Ok("n1/1299 has ended".into())));
}

#[test]
fn a_tree_shows_descendants_below_what_was_started() {
    let mut model = small(LOCAL);
    press(&mut model, "tI");
    model.arrange();
    let rows: Vec<_> = model.programs.on_screen(9).map(|(place, row, _)| (row.row.pid, place.is_child)).collect();
    assert_eq!(rows, [(12345, false), (4711, false), (4720, true), (900, false), (77, false)]);
    press(&mut model, "/cc1\n");
    assert_eq!(pids(&mut model), [4720], "it is found without what it belongs to");
}

#[test]
fn a_move_is_asked_about_before_it_is_ordered() {
    let mut model = small(LOCAL);
    pick(&mut model, 4711);
    model.update(Event::Time(NOW));
    let Some(dialog::Dialog::Menu(menu)) = press(&mut model, "m").is_empty().then(|| model.dialog.take()).flatten()
    else {
        panic!("no menu")
    };
    assert_eq!(menu.items, ["best", "home", "n3", "n1"], "the cheapest node first, not where it is");
    press(&mut model, "mn3");
    let effects = press(&mut model, "\n");
    assert_eq!(effects, []);
    let Some(dialog::Dialog::Ask { question, .. }) = &model.dialog else { panic!("no question") };
    assert_eq!(question, "Move n1/4711 (zstd) from n2 to n3? It will probably stand still for 250 ms.");
    let to = Destination::Node("n3".into());
    let order = Effect::Act(Action::Migrate { program: program_1(4711), to });
    assert_eq!(press(&mut model, "xy"), [order], "nothing but y is a yes");
    assert_eq!(press(&mut model, "Hny"), [], "n is a no");
}

const NOW: u64 = crate::ui::top::fixture::NOW_MS + 1_000;

#[test]
fn orders_name_the_chosen_program() {
    let mut model = small(LOCAL);
    pick(&mut model, 900);
    let constrain = |change| [Effect::Act(Action::Constrain { program: program_1(900), change })];
    let unlock = ConstraintsChange { stay: Some(false), allowed_nodes: None };
    assert_eq!(acts(press(&mut model, "ly")), constrain(unlock));
    let allowed = ConstraintsChange { stay: None, allowed_nodes: Some(vec!["n1".into(), "n2".into()]) };
    assert_eq!(acts(press(&mut model, "a \n")), constrain(allowed), "n2 was marked");
    let start_time_ms = program(900, "n1", "", 0.0).start_time_ms;
    let signal = Action::Signal { program: program_1(900), start_time_ms, signal: Signal::KILL };
    assert_eq!(acts(press(&mut model, "kkill\ny")), [Effect::Act(signal)]);
    press(&mut model, "c");
    assert_eq!(model.message, Some(Err("n1/900 (render) is not being moved".into())));
    pick(&mut model, 4711);
    let cancel = Action::Cancel { program: program_1(4711), migration: ended(1, "n3").id };
    assert_eq!(acts(press(&mut model, "cy")), [Effect::Act(cancel)]);
}

fn acts(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| matches!(effect, Effect::Act(_))).collect()
}

#[test]
fn a_signal_is_sent_at_home_only() {
    let mut model = small(LOCAL);
    model.programs.select(&JobId::new("n3", 77), 10);
    assert_eq!(press(&mut model, "k").len(), 1, "placement is asked about the program");
    assert_eq!(model.message, Some(Err("signals are sent at a program's home: that is n3".into())));
    let mut model = small(Rights { is_local: false, ..LOCAL });
    press(&mut model, "k");
    assert!(model.dialog.is_none() && matches!(model.message, Some(Err(_))));
}

#[test]
fn nodes_are_drained_and_emptied() {
    let mut model = small(LOCAL);
    let own = action::AskedNode { name: "n1".into(), address: None };
    assert_eq!(acts(press(&mut model, "1dy")), [Effect::Act(Action::Drain { node: own.clone(), on: true })]);
    assert_eq!(acts(press(&mut model, "xy")), [Effect::Act(Action::Expel { node: own })]);
    model.update(key(KeyCode::End));
    press(&mut model, "d");
    assert!(matches!(&model.message, Some(Err(why)) if why.contains("--credentials")), "{:?}", model.message);
    model.rights.has_credentials = true;
    let other = action::AskedNode { name: "n3".into(), address: Some("192.0.2.13:7470".into()) };
    assert_eq!(acts(press(&mut model, "dy")), [Effect::Act(Action::Drain { node: other, on: false })]);
}

#[test]
fn read_only_changes_nothing() {
    let mut model = small(Rights { read_only: true, ..LOCAL });
    pick(&mut model, 4711);
    for letter in "mHlackdx".chars() {
        assert_eq!(acts(press(&mut model, &format!("{letter}\ny"))), [], "{letter}");
        model.dialog = None;
        model.focus_on(if letter == 'k' { Pane::Nodes } else { Pane::Programs });
    }
}

#[test]
fn every_key_of_the_help_does_something() {
    for binding in &BINDINGS {
        let letter = binding.keys.split(' ').find_map(|key| {
            let mut chars = key.chars();
            chars.next().filter(|c| c.is_ascii_alphabetic() && chars.next().is_none())
        });
        let Some(letter) = letter.filter(|letter| *letter != 'y') else { continue };
        let mut model = small(LOCAL);
        pick(&mut model, 4711);
        if binding.what.starts_with("nodes:") {
            model.focus_on(Pane::Nodes);
        }
        let before = Settings::of(&model);
        let quits = press(&mut model, &letter.to_string()).contains(&Effect::Quit);
        let changed = before != Settings::of(&model) || model.dialog.is_some() || model.followed.is_some();
        assert!(quits || changed || model.message.is_some(), "{}: {}", binding.keys, binding.what);
    }
}

#[test]
fn a_whole_list_replaces_what_was_known() {
    let mut model = small(LOCAL);
    model.update(Event::Programs(whole(vec![program(900, "n1", "render", 1.0), program(901, "n1", "render", 2.0)])));
    assert_eq!(pids(&mut model), [900, 901]);
    model.update(Event::Nodes(whole(vec![crate::ui::top::fixture::node("n1", 0.0)])));
    assert_eq!(model.nodes.count(), 1);
}

#[test]
fn reasons_are_asked_for_once_at_a_time() {
    let mut model = empty(LOCAL);
    let both = vec![program(1, "n1", "a", 0.0), program(2, "n1", "b", 0.0)];
    model.update(Event::Programs(whole(both)));
    model.arrange();
    assert_eq!(model.update(Event::Time(NOW)), [Effect::AskWhy(program_1(1))]);
    assert_eq!(model.update(key(KeyCode::Down)), [], "the first is not answered");
    let answer = Event::Reasons(program_1(1), Ok(reasons()));
    assert_eq!(model.update(answer), [Effect::AskWhy(program_1(2))]);
    model.update(Event::Reasons(program_1(2), Err("gone".into())));
    assert_eq!(model.update(Event::Time(NOW + 1_000)), []);
    assert_eq!(model.update(Event::Time(NOW + 2_000)), [Effect::AskWhy(program_1(2))]);
}

#[test]
fn a_move_under_way_tells_how_long_it_should_stop() {
    let mut model = small(LOCAL);
    let under_way = model.moves.all().find(|step| !step.row.is_over()).unwrap();
    assert_eq!((under_way.expected_us, under_way.size_bytes), (Some(250_000), Some(83 << 20)));
    press(&mut model, "4");
    assert_eq!(chosen_pid(&mut model), Some(4711), "keys act on the program of the chosen move");
}

#[test]
fn the_mouse_chooses_rows_and_columns() {
    let mut model = small(LOCAL);
    let area = model.layout().pane(Pane::Programs).unwrap();
    let click = |model: &mut Model, column: u16, row: u16, kind| {
        model.update(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
    };
    let down = MouseEventKind::Down(MouseButton::Left);
    click(&mut model, 20, area.y + 4, down);
    assert_eq!(chosen_pid(&mut model), Some(4711));
    click(&mut model, 3, area.y + 1, down);
    assert_eq!(pids(&mut model), [12345, 4720, 4711, 900, 77], "a click on PID turns the order round");
    click(&mut model, 3, 1, down);
    assert_eq!(model.focus, Pane::Nodes);
    click(&mut model, 3, area.y + 3, MouseEventKind::ScrollDown);
    assert_eq!(model.focus, Pane::Nodes, "the wheel only scrolls");
}

#[test]
fn enter_leads_from_a_node_to_its_programs() {
    let mut model = small(LOCAL);
    press(&mut model, "1\n");
    assert_eq!((model.focus, pids(&mut model)), (Pane::Programs, vec![77, 900, 4720, 12345]));
    press(&mut model, "4\n");
    assert_eq!((model.focus, chosen_pid(&mut model)), (Pane::Programs, Some(4711)));
    press(&mut model, "\n");
    assert_eq!((model.focus, model.zoomed), (Pane::Why, true));
    press(&mut model, "\x1b");
    assert!(!model.zoomed);
}
