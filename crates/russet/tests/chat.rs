//! `russet chat` as a script uses it: the built binary, lines on standard input, a real model.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise")]
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A real model, where `cargo xtask setup` puts it.
fn model(name: &str) -> Option<PathBuf> {
    let path = std::env::home_dir()?.join(".cache/russet/models").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is missing; try: cargo xtask setup", path.display());
    None
}

fn smollm2() -> Option<PathBuf> {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A directory of a test's own.
fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat").join(test);
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    path
}

struct Output {
    success: bool,
    /// Lines of standard output.
    answers: Vec<String>,
    said: String,
}

impl Output {
    /// Tokens of the prompts that were kept and run, turn by turn.
    fn prompts(&self) -> Vec<(u32, u32)> {
        let closing = self.said.lines().filter_map(|line| line.strip_prefix("prompt "));
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap();
        closing
            .map(|line| {
                // "37 kept, 14 run, ..."
                let mut words = line.split(' ');
                (number(words.next()), number(words.nth(1)))
            })
            .collect()
    }
}

fn chat(model: &Path, directory: &Path, flags: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_russet"))
        .args(["chat", "--temperature", "0", "--max-tokens", "6", "--model"])
        .arg(model)
        .args(flags)
        .current_dir(directory)
        .env("RUSSET_HOME", directory.join("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Small enough for the pipe, so this does not wait for the reader.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output {
        success: output.status.success(),
        answers: text(output.stdout).lines().map(str::to_owned).collect(),
        said: text(output.stderr),
    }
}

#[test]
fn the_cache_is_kept_between_turns() {
    let Some(model) = smollm2() else { return };
    let directory = directory("cache");
    let input = "What is 2+2?\nWhy?\n/undo\n/edit 1\nWhat is 2+3?\n";
    let output = chat(&model, &directory, &["--ctx", "256"], input);
    assert!(output.success, "{}", output.said);
    assert_eq!(output.answers.len(), 3, "nothing but answers: {:?}", output.answers);
    let prompts = output.prompts();
    // llama.cpp counts 37 tokens for the default system message and the question.
    assert_eq!(prompts[0], (0, 37), "{}", output.said);
    // To the 37 and the six tokens of the answer come 13 by llama.cpp's count:
    // <|im_end|> \n <|im_start|> user \n Why ? <|im_end|> \n <|im_start|> ass istant \n
    // The cache keeps whole blocks of 32 tokens.
    assert_eq!(prompts[1], (32, 24), "{}", output.said);
    // The edited question differs in one digit, within the first block.
    let (kept, run) = prompts[2];
    assert_eq!(kept + run, 37, "{}", output.said);
    assert!(!directory.join("home/chat_history").exists(), "a pipe is no history");
}

#[test]
fn a_saved_chat_goes_on_as_if_it_had_not_ended() {
    let Some(model) = smollm2() else { return };
    let directory = directory("save");
    let flags = ["--ctx", "256", "--system", "Be brief."];
    let straight = chat(
        &model,
        &directory,
        &flags,
        "Name a colour.\n/save a.json\n\"\"\"\nAnd\na fruit?\n\"\"\"\n",
    );
    assert!(straight.success, "{}", straight.said);
    assert_eq!(straight.answers.len(), 2);
    // Without the flags: system message and settings come from the file.
    let input = "/set max-tokens 3\n/load a.json\nAnd\\\na fruit?\n/save! a.json\n/save a.json\n";
    let loaded = chat(&model, &directory, &["--ctx", "256"], input);
    assert_eq!(loaded.answers, straight.answers[1..], "{}", loaded.said);
    assert!(loaded.said.contains("a.json exists"), "{}", loaded.said);
    assert!(!loaded.success, "a command that failed shows in the status");
    let saved = std::fs::read_to_string(directory.join("a.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    let roles: Vec<&str> =
        saved["messages"].as_array().unwrap().iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(saved["messages"][3]["content"], "And\na fruit?");
    assert_eq!(saved["settings"]["max-tokens"], 6);
}

#[test]
fn what_cannot_be_done_is_said_and_the_chat_goes_on() {
    let Some(model) = smollm2() else { return };
    let directory = directory("errors");
    std::fs::write(directory.join("bad.json"), "{\"format\": 1}").unwrap();
    let input = "/undo\n/sav x\n/load none.json\n/load bad.json\n/set top-p 7\n/retry\nHello\n";
    let output = chat(&model, &directory, &["--ctx", "128"], input);
    assert!(!output.success);
    assert_eq!(output.answers.len(), 1, "{:?}", output.answers);
    for expected in [
        "nothing to undo",
        "no command /sav; there are /help /clear",
        "none.json",
        "bad.json is no saved chat",
        "top-p is a number from 0 to 1",
        "nothing to answer again",
    ] {
        assert!(output.said.contains(expected), "{expected}: {}", output.said);
    }
}

#[test]
fn a_full_context_drops_the_oldest_turns() {
    let Some(model) = smollm2() else { return };
    let directory = directory("full");
    // 64 tokens hold the system message and three short turns, not four.
    let input = "One?\nTwo?\nThree?\nFour?\n/show\n".to_owned() + &"word ".repeat(80) + "\nFive?\n";
    let output = chat(&model, &directory, &["--ctx", "64", "--system", "Brief."], &input);
    assert_eq!(output.answers.len(), 5, "{:?} {}", output.answers, output.said);
    assert!(output.said.contains("the context is full: the oldest"), "{}", output.said);
    assert!(output.said.contains("no longer seen"), "{}", output.said);
    assert!(output.said.contains("leaves no room for an answer"), "{}", output.said);
}

#[test]
fn a_model_without_a_template_is_for_run() {
    let Some(model) = model("gemma-3-270m-Q4_K_M.gguf") else { return };
    let output = chat(&model, &directory("template"), &["--ctx", "64"], "Hello\n");
    assert!(!output.success && output.answers.is_empty());
    assert!(output.said.contains("no chat template"), "{}", output.said);
    assert!(output.said.contains("russet run --raw"), "{}", output.said);
}
