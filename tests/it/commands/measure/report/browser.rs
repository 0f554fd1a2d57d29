//! The page of `hearth report` in a browser, if Chromium is installed.

use super::run::episode;
use super::run::{HOSTILE, hostile, run, written};
use scenarios::Outcome;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The browser on the search path.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file())
        .expect("Chromium is on the search path")
}

/// The page after its script has run, and the messages on the console.
fn browse(browser: &Path, page: &Path, address: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg("--window-size=1366,768")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}{address}", page.display()))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    (
        String::from_utf8(output.stdout).unwrap(),
        console.join("\n"),
    )
}

/// An attribute of the body of the page.
#[track_caller]
fn told(dom: &str, name: &str) -> String {
    let (_, body) = dom.split_once("<body").unwrap();
    let (attributes, _) = body.split_once('>').unwrap();
    let value = attributes
        .split_once(&format!("data-{name}=\""))
        .map(|(_, rest)| rest.split('"').next().unwrap());
    value
        .unwrap_or_else(|| panic!("no data-{name} in <body{attributes}>"))
        .to_string()
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_shows_what_its_address_says() {
    let browser = chromium();
    let run = run();
    written(run.path(), &[]);
    let page = run.path().join("report.html");
    let open = |address: &str| {
        let (dom, console) = browse(&browser, &page, address);
        assert_eq!(console, "", "{address}");
        dom
    };
    let dom = open("#episodes");
    assert_eq!(
        (told(&dom, "view"), told(&dom, "rows")),
        ("episodes".into(), "24".into())
    );
    let drawn = dom.matches("role=\"option\"").count();
    assert!(
        (8..24).contains(&drawn),
        "{drawn} rows, as many as the window needs"
    );
    for (address, rows) in [
        ("store=1/eval/oreo-k3.jsonl", "6"),
        ("split=valid_seen", "12"),
        ("outcome=success", "8"),
        ("outcome=not_won", "8"),
        ("outcome=env_failed", "8"),
        ("outcome=malformed", "16"),
        ("type=pick_and_place_simple&split=valid_unseen", "4"),
        ("q=CUP+4+safe", "4"),
        ("q=nowhere", "0"),
    ] {
        assert_eq!(
            told(&open(&format!("#episodes?{address}")), "rows"),
            rows,
            "{address}"
        );
    }
    let name = |store: &str| {
        format!(
            "{store}~{}~0",
            &episode(0, "", 1, "", Outcome::Success).game_hash[..16]
        )
    };
    let (sft, oreo) = (name("1/eval/sft-k1.jsonl"), name("1/eval/oreo-k3.jsonl"));
    let dom = open(&format!("#episodes?at={sft}&beside={oreo}&turn=2"));
    assert_eq!(
        (told(&dom, "at"), told(&dom, "beside"), told(&dom, "turn")),
        (sft, oreo, "2".into())
    );
    assert_eq!(told(&dom, "differs"), "2", "the first turn is the same");
    assert!(dom.contains("turn 2: the first that differs") && dom.contains("examine safe 1"));
}

/// Presses keys as a person would, and records the attributes of the page after each.
const PERSON: &str = r"<script>
const notes = {};
const note = (name) => {
  const { view, rows, at, turn, beside } = document.body.dataset;
  notes[name] = { view, rows, at: at?.split('~')[0], turn, beside: beside?.split('~')[0], focus: document.activeElement.id };
};
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
const steps = [['e'], ['j'], ['ArrowDown'], ['k'], ['ArrowRight', 'ArrowRight', 'ArrowRight', 'ArrowRight'], ['ArrowLeft'], ['/']];
note('opened');
for (const keys of steps) { keys.forEach(press); note(keys[0]); }
const search = document.getElementById('q');
search.value = 'cup 5';
search.dispatchEvent(new Event('input'));
note('searched');
press('j'); note('j in the search');
press('Escape'); note('Escape');
const store = document.getElementById('store');
store.value = '1/eval/oreo-k1.jsonl';
store.dispatchEvent(new Event('change'));
note('filtered');
press('b'); note('b');
press('d'); note('d');
press('Escape'); note('Escape again');
press('?');
notes.help = document.getElementById('help').open;
document.getElementById('help').close();
press('s'); note('s');
notes.address = location.hash;
notes.images = document.querySelectorAll('img, b > b').length;
notes.title = document.title;
const told = document.createElement('template');
told.id = 'notes';
told.setAttribute('data-notes', encodeURIComponent(JSON.stringify(notes)));
document.body.append(told);
</script>";

/// The page without its policy, which would block the script of the test, and with that script in
/// it.
fn with_a_person(browser: &Path, run: &Path) -> Value {
    let (_, page) = written(run, &[]);
    let policy = page.find("<meta http-equiv").unwrap();
    let end = policy + page[policy..].find('\n').unwrap();
    let used =
        page[..policy].to_string() + &page[end..].replace("</body>", &format!("{PERSON}</body>"));
    let path = run.join("used.html");
    fs::write(&path, used).unwrap();
    let (dom, console) = browse(browser, &path, "");
    assert_eq!(console, "");
    let (_, rest) = dom.split_once("data-notes=\"").unwrap();
    let text: Vec<u8> = percent_decoded(rest.split('"').next().unwrap());
    serde_json::from_slice(&text).unwrap()
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_is_used_by_keys() {
    let browser = chromium();
    let run = run();
    let notes = with_a_person(&browser, run.path());
    let sft = |turn: &str| json!({ "view": "episodes", "rows": "24", "at": "1/eval/sft-k1.jsonl", "turn": turn, "beside": "", "focus": "" });
    assert_eq!(notes["opened"]["view"], "summary");
    for (step, turn) in [
        ("e", "1"),
        ("j", "1"),
        ("ArrowDown", "1"),
        ("k", "1"),
        ("ArrowRight", "3"),
        ("ArrowLeft", "2"),
    ] {
        assert_eq!(notes[step], sft(turn), "{step}");
    }
    assert_eq!(notes["/"]["focus"], "q");
    assert_eq!(
        (&notes["searched"]["rows"], &notes["j in the search"]),
        (&json!("4"), &notes["searched"])
    );
    assert_eq!(
        (&notes["Escape"]["rows"], &notes["Escape"]["focus"]),
        (&json!("24"), &json!("list"))
    );
    assert_eq!(notes["filtered"]["rows"], "6");
    assert_eq!(
        notes["b"]["beside"], "1/eval/oreo-k3.jsonl",
        "the same policy at another K"
    );
    assert_eq!(notes["Escape again"]["beside"], "");
    assert_eq!(
        (&notes["help"], &notes["s"]["view"]),
        (&json!(true), &json!("summary"))
    );
    assert!(
        notes["address"]
            .as_str()
            .unwrap()
            .starts_with("#summary?store=1%2Feval%2Foreo-k1.jsonl"),
        "{notes}"
    );
}

#[test]
#[ignore = "needs Chromium"]
fn hostile_text_stays_text_in_a_browser() {
    let browser = chromium();
    let folder = tempfile::tempdir().unwrap();
    hostile(folder.path());
    let notes = with_a_person(&browser, folder.path());
    assert_eq!(notes["images"], 0);
    assert_eq!(notes["title"], format!("{HOSTILE} · hearth"));
}
