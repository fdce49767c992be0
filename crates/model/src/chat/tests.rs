//! Prompts against Jinja2's (fixtures/chat, made by xtask/golden/chat.py).

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{ChatTemplate, Error, Extras, LocalTime, Message, ToolCall};
use crate::gguf::{Gguf, Metadata};
use crate::tokenizer::Tokenizer;

/// 2026-03-07 09:05:02, as in chat.py.
const NOW: LocalTime = LocalTime(1_772_874_302);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chat")
}

fn messages(chat: &Json) -> Vec<Message> {
    let message = |m: &Json| Message::new(m[0].as_str().unwrap(), m[1].as_str().unwrap());
    chat.as_array().unwrap().iter().map(message).collect()
}

/// Renders every chat and compares with what Jinja2 made of it.
#[track_caller]
fn check(name: &str, template: &ChatTemplate, tokens: [&str; 2]) {
    let text = std::fs::read_to_string(fixtures().join("expected.json")).unwrap();
    let fixture: Json = serde_json::from_str(&text).unwrap();
    let mut expected = fixture["expected"][name].as_array().unwrap().iter();
    for chat in fixture["chats"].as_array().unwrap() {
        for prompt in [true, false] {
            let expected = expected.next().unwrap();
            let found = template.render(&messages(chat), prompt, NOW);
            match found {
                Ok(text) => {
                    let text = text.replace(tokens[0], "<bos>").replace(tokens[1], "</eos>");
                    assert_eq!(Some(text.as_str()), expected["text"].as_str(), "{name}: {chat}");
                }
                Err(Error::Refused { message }) => {
                    assert_eq!(
                        Some(message.as_str()),
                        expected["raised"].as_str(),
                        "{name}: {chat}"
                    );
                }
                Err(e @ Error::Failed { .. }) => {
                    assert_eq!(expected["failed"], true, "{name}: {chat}: {e}");
                }
                Err(e) => panic!("{name}: {e}"),
            }
        }
    }
}

#[test]
fn templates_render_as_in_jinja2() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jinja") {
            let source = std::fs::read_to_string(&path).unwrap();
            let template = ChatTemplate::new(&source, "<bos>", "</eos>").unwrap();
            check(path.file_stem().unwrap().to_str().unwrap(), &template, ["<bos>", "</eos>"]);
            count += 1;
        }
    }
    assert_eq!(count, 8);
}

/// A message of fixtures/chat/tools.json, in OpenAI's form but for the arguments.
fn message(json: &Json) -> Message {
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let call = |call: &Json| ToolCall {
        id: call["id"].as_str().unwrap().to_owned(),
        name: call["function"]["name"].as_str().unwrap().to_owned(),
        arguments: call["function"]["arguments"].clone(),
    };
    Message {
        role: text("role").unwrap(),
        content: text("content").unwrap(),
        reasoning: text("reasoning_content"),
        tool_calls: json["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        tool_call_id: text("tool_call_id"),
        name: text("name"),
    }
}

#[test]
fn tools_calls_and_variables_render_as_in_jinja2() {
    let text = std::fs::read_to_string(fixtures().join("tools.json")).unwrap();
    let fixture: Json = serde_json::from_str(&text).unwrap();
    for (name, expected) in fixture["expected"].as_object().unwrap() {
        let source = std::fs::read_to_string(fixtures().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "<bos>", "</eos>").unwrap();
        for (case, expected) in
            fixture["cases"].as_array().unwrap().iter().zip(expected.as_array().unwrap())
        {
            let messages: Vec<Message> =
                case["messages"].as_array().unwrap().iter().map(message).collect();
            let extras = Extras {
                tools: case["tools"].as_array().unwrap(),
                variables: case["variables"].as_object(),
            };
            let found = template.render_with(&messages, extras, true, NOW).unwrap();
            assert_eq!(Some(found.as_str()), expected["text"].as_str(), "{name}: {case}");
        }
    }
}

#[test]
fn a_template_without_tools_refuses_them() {
    let tools = [serde_json::json!({"type": "function", "function": {"name": "f"}})];
    let extras = Extras { tools: &tools, ..Extras::default() };
    let refused = |source: &str| {
        let template = ChatTemplate::new(source, "", "").unwrap();
        matches!(template.render_with(&[], extras, true, NOW), Err(Error::NoTools))
    };
    for source in ["{{ 'tools' }}", "{# tools #}", "tools {{ m.tools }}", r#"{{ "\" tools" }}"#] {
        assert!(refused(source), "{source}");
    }
    for source in
        ["{{ tools }}", "{%- if not tools is defined %}{% endif %}", "{{ '}' ~ tools[0] }}"]
    {
        assert!(!refused(source), "{source}");
    }
    let names = ["smollm2", "phi3.5", "qwen2.5", "qwen3", "mistral-nemo"];
    let reads = names.map(|name| {
        let source = std::fs::read_to_string(fixtures().join(format!("{name}.jinja"))).unwrap();
        ChatTemplate::new(&source, "", "").unwrap().reads("tools")
    });
    assert_eq!(reads, [false, false, true, true, true]);
}

/// As on Phi-4-mini's model card.
#[test]
fn tools_go_into_the_system_message_where_the_template_looks_for_them() {
    let source = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\
        {% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}\
        <|tool|>{{ message['tools'] }}<|/tool|>{% endif %}<|end|>{% endfor %}";
    let template = ChatTemplate::new(source, "", "").unwrap();
    let tools = [serde_json::json!({"type": "function", "function": {"name": "f"}})];
    let extras = Extras { tools: &tools, ..Extras::default() };
    let messages = [Message::new("system", "Be brief."), Message::new("user", "x")];
    let shown = "<|tool|>[{\"name\":\"f\"}]<|/tool|><|end|><|user|>x<|end|>";
    let render = |messages: &[Message]| template.render_with(messages, extras, true, NOW).unwrap();
    assert_eq!(render(&messages), format!("<|system|>Be brief.{shown}"));
    assert_eq!(render(&messages[1..]), format!("<|system|>{shown}"));
    assert!(!template.render(&messages, true, NOW).unwrap().contains("tool"));
    // As SmolLM3's template does.
    let template = ChatTemplate::new(
        "{{ xml_tools[0].function.name if tools else xml_tools }}{{ x }}",
        "",
        "",
    )
    .unwrap();
    let variables = serde_json::json!({"x": 7, "xml_tools": 8});
    let extras = Extras { variables: variables.as_object(), ..extras };
    assert_eq!(template.render_with(&messages, extras, true, NOW).unwrap(), "f7");
    let extras = Extras { tools: &[], ..extras };
    assert_eq!(template.render_with(&messages, extras, true, NOW).unwrap(), "87");
}

#[test]
fn a_real_file_has_its_template_or_says_that_it_has_none() {
    for (file, has) in
        [("SmolLM2-135M-Instruct.Q4_1.gguf", true), ("gemma-3-270m-Q4_K_M.gguf", false)]
    {
        let path = std::env::home_dir().unwrap().join(".cache/russet/models").join(file);
        if !path.exists() {
            eprintln!("SKIPPED: {} is not there (cargo xtask models fetches it)", path.display());
            continue;
        }
        let gguf = Gguf::open(&path).unwrap();
        let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
        let template = ChatTemplate::from_gguf(gguf.metadata(), &tokenizer);
        if has {
            // SmolLM2's template writes no token by name, so nothing stands in for <bos>.
            check("smollm2", &template.unwrap(), ["\0", "\0"]);
        } else {
            assert!(matches!(template, Err(Error::NoTemplate)), "{template:?}");
        }
    }
}

#[test]
fn templates_that_are_wrong_or_never_end_are_refused() {
    let new = |source: &str| ChatTemplate::new(source, "", "");
    assert!(matches!(new("{% if %}"), Err(Error::Syntax { .. })));
    assert!(matches!(new("{% for"), Err(Error::Syntax { .. })));
    assert!(matches!(new(&"x".repeat(1 << 21)), Err(Error::TooLong { .. })));
    let endless =
        new("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}");
    assert!(matches!(endless.unwrap().render(&[], true, NOW), Err(Error::Failed { .. })));
    let deep = new("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    assert!(matches!(deep.unwrap().render(&[], true, NOW), Err(Error::Failed { .. })));
    let odd = new("{{ strftime_now('%Q') }}").unwrap().render(&[], true, NOW).unwrap_err();
    assert!(odd.to_string().contains("strftime_now does not know %Q"), "{odd}");
    let empty = Metadata::new(Vec::new()).unwrap();
    assert!(empty.opt_str(super::KEY).unwrap().is_none());
}

/// Dates by hand: the epoch, the day before, leap days, a year's end.
#[test]
fn times_are_those_of_the_calendar() {
    let f = |seconds| LocalTime(seconds).format("%a %F %T %j").unwrap();
    assert_eq!(f(0), "Thu 1970-01-01 00:00:00 001");
    assert_eq!(f(-1), "Wed 1969-12-31 23:59:59 365");
    assert_eq!(f(951_782_400), "Tue 2000-02-29 00:00:00 060");
    assert_eq!(f(1_735_689_599), "Tue 2024-12-31 23:59:59 366");
    assert_eq!(f(4_107_542_400), "Mon 2100-03-01 00:00:00 060");
}
