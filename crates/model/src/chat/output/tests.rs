//! Answers as models of each family write them (their public templates and cards), and any cut of them.

use proptest::prelude::*;

use super::{Delta, Format, OutputParser};

const QWEN3: &str = include_str!("../../../../../fixtures/chat/qwen3.jinja");
const QWEN25: &str = include_str!("../../../../../fixtures/chat/qwen2.5.jinja");
const NEMO: &str = include_str!("../../../../../fixtures/chat/mistral-nemo.jinja");
const SMOLLM2: &str = include_str!("../../../../../fixtures/chat/smollm2.jinja");
const LLAMA3: &str = r#"Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. <|python_tag|>"#;
const PHI4: &str = "<|tool|>{{ tools }}<|/tool|>";
const GEMMA: &str = "<start_of_turn>{{ tools }}";

/// The answer as one line: content as it is, `(thought)`, `«name|arguments»` for a call.
fn line(deltas: &[Delta]) -> String {
    let mut out = String::new();
    let mut last = ' ';
    for delta in deltas {
        let kind = match delta {
            Delta::Content(_) => 'c',
            Delta::Reasoning(_) => 'r',
            Delta::ToolCall { .. } => 't',
            Delta::ToolArguments { .. } => 'a',
        };
        if last == 'r' && kind != 'r' {
            out.push(')');
        }
        if matches!(last, 'a' | 't') && kind != 'a' {
            out.push('»');
        }
        match delta {
            Delta::Content(text) => out.push_str(text),
            Delta::Reasoning(text) => {
                if last != 'r' {
                    out.push('(');
                }
                out.push_str(text);
            }
            Delta::ToolCall { name, .. } => out.push_str(&format!("«{name}|")),
            Delta::ToolArguments { piece, .. } => out.push_str(piece),
        }
        last = kind;
    }
    match last {
        'r' => out + ")",
        'a' | 't' => out + "»",
        _ => out,
    }
}

fn parse(template: &str, tools: &[&str], prompt: &str, pieces: &[&str]) -> Vec<Delta> {
    let tools = tools.iter().map(|name| (*name).to_owned());
    let mut parser = OutputParser::new(Format::of_template(template), tools, prompt);
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    deltas
}

const TOOLS: [&str; 2] = ["get_weather", "clock"];

/// Template, end of the prompt, answer, what it means.
const ANSWERS: &[(&str, &str, &str, &str)] = &[
    // Qwen 2.5, Hermes 2 Pro.
    (
        QWEN25,
        "",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln\", \"days\": 2}}\n</tool_call>",
        "«get_weather|{\"city\": \"Köln\", \"days\": 2}»",
    ),
    (
        QWEN25,
        "",
        "I will look.\n<tool_call>\n{\"name\": \"clock\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"a\": [{\"b\": \"}\\\"]\"}]}}\n</tool_call>\n\nDone.",
        "I will look.«clock|{}»«get_weather|{\"a\": [{\"b\": \"}\\\"]\"}]}»Done.",
    ),
    (QWEN25, "", "a <b> & <tool_ca c\n", "a <b> & <tool_ca c\n"),
    // Arguments first, as a string, or none.
    (
        QWEN25,
        "",
        "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"clock\"}</tool_call>",
        "«clock|{\"x\": 1}»",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>",
        "«clock|{\"x\": 1}»",
    ),
    (QWEN25, "", "<tool_call>{\"name\": \"clock\"}</tool_call>", "«clock|{}»"),
    (QWEN25, "", "<tool_call>{\"name\": \"other\", \"arguments\": null}", "«other|{}»"),
    // Broken: content, or arguments as far as they go.
    (
        QWEN25,
        "",
        "x <tool_call>\nclock()\n</tool_call> y",
        "x <tool_call>\nclock()\n</tool_call> y",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": 3}</tool_call>",
        "<tool_call>{\"name\": \"clock\", \"arguments\": 3}</tool_call>",
    ),
    (QWEN25, "", "<tool_call>{\"name\": \"clo", "<tool_call>{\"name\": \"clo"),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": {\"a\": \"b",
        "«clock|{\"a\": \"b»",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": {}}}\n</tool_call> y",
        "«clock|{}»}y",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": {}, \"id\": 3 }\n</tool_call>y",
        "«clock|{}»y",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": {}\n</tool_call>y",
        "«clock|{}»y",
    ),
    (
        QWEN25,
        "",
        "<tool_call>{\"name\": \"clock\", \"arguments\": {}}<tool_call>oops",
        "«clock|{}»<tool_call>oops",
    ),
    // Qwen 3, with and without thoughts.
    (
        QWEN3,
        "<|im_start|>assistant\n",
        "<think>\nThe user asks.\n\nFine.\n</think>\n\nIt is 7.\n<tool_call>\n{\"name\": \"clock\", \"arguments\": {}}\n</tool_call>",
        "(The user asks.\n\nFine.)It is 7.«clock|{}»",
    ),
    (QWEN3, "assistant\n<think>\n\n</think>\n\n", "Hello.", "Hello."),
    (QWEN3, "assistant\n<think>\n", "Short", "(Short)"),
    (
        QWEN3,
        "assistant\n<think>\n",
        "\nIn <think> </thin\n</think>\n\n<tool_call>{\"name\":\"clock\",\"arguments\":{}}",
        "(In <think> </thin)«clock|{}»",
    ),
    // SmolLM2 puts a list between the marks of Hermes; its own template knows no tools, so its text stays text.
    (
        QWEN25,
        "",
        "<tool_call>[{\"name\": \"clock\", \"arguments\": {}}, {\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}]</tool_call>",
        "«clock|{}»«get_weather|{\"city\": \"x\"}»",
    ),
    (
        SMOLLM2,
        "",
        "<tool_call>[{\"name\": \"clock\", \"arguments\": {}}]",
        "<tool_call>[{\"name\": \"clock\", \"arguments\": {}}]",
    ),
    // Llama 3.1 and 3.2.
    (
        LLAMA3,
        "",
        "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"San Francisco\"}}",
        "«get_weather|{\"city\": \"San Francisco\"}»",
    ),
    (
        LLAMA3,
        "",
        "<|python_tag|>{\"type\": \"function\", \"name\": \"clock\", \"parameters\": {}}; {\"name\": \"clock\", \"parameters\": {\"a\": 1}}",
        "«clock|{}»«clock|{\"a\": 1}»",
    ),
    (
        LLAMA3,
        "",
        "<|python_tag|>brave_search.call(query=\"x\")",
        "<|python_tag|>brave_search.call(query=\"x\")",
    ),
    (
        LLAMA3,
        "",
        "{\"name\": \"Ada\", \"parameters\": {}}",
        "{\"name\": \"Ada\", \"parameters\": {}}",
    ),
    (LLAMA3, "", "{\"title\": \"clock\"}", "{\"title\": \"clock\"}"),
    (LLAMA3, "", "  [1, {\"name\": \"clock\"}]", "  [1, {\"name\": \"clock\"}]"),
    (LLAMA3, "", "{\"name\": \"clock\"}", "{\"name\": \"clock\"}"),
    (
        LLAMA3,
        "",
        "See {\"name\": \"clock\", \"parameters\": {}}",
        "See {\"name\": \"clock\", \"parameters\": {}}",
    ),
    // Mistral: Nemo and Small 3.1, then Small 3.2 and Devstral.
    (
        NEMO,
        "",
        "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"VvvODy9mT\"}, {\"name\": \"clock\", \"arguments\": {}}]",
        "«get_weather|{\"city\": \"Paris\"}»«clock|{}»",
    ),
    (NEMO, "", "Sure. [TOOL_CALLS] [{\"arguments\": {}, \"name\": \"clock\"}]", "Sure.«clock|{}»"),
    (
        NEMO,
        "",
        "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]clock[ARGS]{}",
        "«get_weather|{\"city\": \"Paris\"}»«clock|{}»",
    ),
    (NEMO, "", "[TOOL_CALLS]clock[CALL_ID]xyz123abc[ARGS]{}", "«clock|{}»"),
    (NEMO, "", "[TOOL_CALLS] none today", "[TOOL_CALLS] none today"),
    // Phi-4 mini.
    (
        PHI4,
        "",
        "<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]<|/tool_call|>",
        "«get_weather|{\"city\": \"Oslo\"}»",
    ),
    (
        PHI4,
        "",
        "<|tool_call|>{\"name\": \"clock\", \"arguments\": {}}<|/tool_call|>ok",
        "«clock|{}»ok",
    ),
    // Gemma 3.
    (
        GEMMA,
        "",
        "```json\n{\"name\": \"clock\", \"parameters\": {\"a\": 1}}\n```\nDone",
        "«clock|{\"a\": 1}»Done",
    ),
    (GEMMA, "", "{\"name\": \"clock\", \"parameters\": {}}\nSee ```x```", "«clock|{}»See ```x```"),
    (
        GEMMA,
        "",
        "Like so:\n```json\n{\"name\": \"Ada\"}\n```",
        "Like so:\n```json\n{\"name\": \"Ada\"}\n```",
    ),
    // No family.
    ("{{ messages }}", "", "<think>[TOOL_CALLS]{}", "<think>[TOOL_CALLS]{}"),
];

#[test]
fn answers_of_each_family() {
    for (template, prompt, answer, expected) in ANSWERS {
        assert_eq!(line(&parse(template, &TOOLS, prompt, &[answer])), *expected, "{answer}");
    }
}

#[test]
fn pieces_do_not_matter() {
    for (template, prompt, answer, expected) in ANSWERS {
        let singles: Vec<String> = answer.chars().map(String::from).collect();
        let singles: Vec<&str> = singles.iter().map(String::as_str).collect();
        assert_eq!(line(&parse(template, &TOOLS, prompt, &singles)), *expected, "{answer}");
        for cut in answer.char_indices().map(|(at, _)| at) {
            let (left, right) = answer.split_at(cut);
            let found = line(&parse(template, &TOOLS, prompt, &[left, right]));
            assert_eq!(found, *expected, "{left} | {right}");
        }
    }
}

#[test]
fn without_tools_a_call_is_text() {
    for (template, prompt, answer, _) in ANSWERS.iter().filter(|a| a.0 != QWEN3) {
        assert_eq!(line(&parse(template, &[], prompt, &[answer])), *answer);
    }
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let tools = || TOOLS.iter().map(|name| (*name).to_owned());
    let mut parser = OutputParser::new(Format::of_template(QWEN3), tools(), "");
    assert_eq!(parser.push("Hi <"), [Delta::Content("Hi".to_owned())]);
    assert_eq!(parser.push("b"), [Delta::Content(" <b".to_owned())]);
    assert_eq!(parser.push("<tool_call>{\"name\": \"clock\", \"arg"), []);
    let began = [
        Delta::ToolCall { index: 0, name: "clock".to_owned() },
        Delta::ToolArguments { index: 0, piece: "{\"a".to_owned() },
    ];
    assert_eq!(parser.push("uments\": {\"a"), began);
    let more = Delta::ToolArguments { index: 0, piece: "\": 1".to_owned() };
    assert_eq!(parser.push("\": 1"), [more]);
}

#[test]
fn a_header_is_not_held_for_ever() {
    let answer = format!("<tool_call>{{\"x\": \"{}", "y".repeat(20_000));
    assert_eq!(line(&parse(QWEN25, &TOOLS, "", &[&answer])), answer);
    let pieces: Vec<&str> =
        answer.as_bytes().chunks(7).map(|c| std::str::from_utf8(c).unwrap()).collect();
    assert_eq!(line(&parse(QWEN25, &TOOLS, "", &pieces)), answer);
    let mut parser = OutputParser::new(Format::of_template(QWEN25), ["clock".to_owned()], "");
    assert_eq!(line(&parser.push(&answer[..9000])), answer[..9000]);
}

/// What stays of a text when white space and marks are no matter.
fn kept(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

proptest! {
    #[test]
    fn any_text_in_any_pieces(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>",
            "```json", "```", "{\"name\": \"clock\"", ", \"arguments\": ", ", \"parameters\": ", "{}", "}", "{", "[", "]",
            " ", "\n", "\"", "é", "<", "\\", "clock", "[ARGS]", "; ", "x",
        ]), 0..12),
        cuts in prop::collection::vec(0usize..80, 0..5),
        family in 0usize..6,
    ) {
        let template = [QWEN25, QWEN3, NEMO, PHI4, LLAMA3, GEMMA][family];
        let text = parts.concat();
        let mut places: Vec<usize> = cuts.iter().copied().filter(|&cut| text.is_char_boundary(cut)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces: Vec<&str> = places.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let whole = parse(template, &TOOLS, "", &[&text]);
        prop_assert_eq!(line(&whole), line(&parse(template, &TOOLS, "", &pieces)));
        // Without a call nothing but the marks of reasoning and white space beside them is gone.
        if !whole.iter().any(|delta| matches!(delta, Delta::ToolCall { .. } | Delta::Reasoning(_))) {
            let marks = text.replace("<think>", "").replace("</think>", "");
            let found = line(&whole).replace("<think>", "").replace("</think>", "");
            prop_assert_eq!(kept(&found), kept(&marks));
        }
    }
}
