//! Makes of a program's texts what a C++ compiler takes: a few declarations rewritten in place, so that every message
//! still leads to the author's line, and one entry per kernel that turns a launch into its arguments.
use crate::read::{Argument, Entry, Source, Spot};
use crate::token::tokens;
use std::fmt::Write as _;

/// The texts alone, for a compiler that only checks them.
pub(crate) fn check(source: &Source) -> String {
    body(source) + "}\n"
}

/// The texts for clang on the host: entries are thunks in a table that the runtime reads.
pub(crate) fn host(source: &Source) -> String {
    let mut unit = body(source);
    let mut table = String::new();
    for (i, entry) in source.entries.iter().enumerate() {
        let name = &entry.name;
        let arguments = arguments(entry, host_argument);
        let _ = writeln!(
            unit,
            "static void __thunk_{i}(const __msl_position* t) {{ {name}({arguments}); }}"
        );
        let mut bytes = "0".to_owned();
        let mut aligns = Vec::new();
        for parameter in &entry.parameters {
            let of_type = &parameter.of_type;
            match parameter.argument {
                Argument::Buffer { index, .. } => {
                    aligns.resize(aligns.len().max(index + 1), "1".to_owned());
                    aligns[index] = format!("alignof(__pointee<{of_type}>::type)");
                }
                Argument::Constant { .. } if of_type.ends_with('&') => {
                    bytes = format!("sizeof({})", of_type.trim_end_matches('&'));
                }
                _ => {}
            }
        }
        let aligns = aligns.join(", ");
        let _ = writeln!(table, "  {{\"{name}\", __thunk_{i}, {bytes}, {{{aligns}}}}},");
    }
    let _ = write!(
        unit,
        "extern \"C\" {{\nextern const __msl_entry msl_entries[];\n\
         const __msl_entry msl_entries[] = {{\n{table}  {{}}\n}};\n}}\n}}\n"
    );
    unit
}

/// The texts for NVRTC and amdgcn: entries are kernels of their kind. Spans are pointers in order, then the image of
/// the constants by value; scratch memory is the dynamic shared memory of the launch.
pub(crate) fn gpu(source: &Source) -> String {
    let mut unit = body(source);
    unit.push_str("namespace __entries {\n");
    for entry in &source.entries {
        let name = &entry.name;
        let mut parameters: Vec<(usize, String)> = Vec::new();
        for parameter in &entry.parameters {
            let (of_type, name) = (&parameter.of_type, &parameter.name);
            match parameter.argument {
                Argument::Buffer { index, .. } => {
                    parameters.push((index, format!("{of_type} {name}")));
                }
                Argument::Constant { index } => {
                    let of_type = of_type.trim_end_matches('&').replace("constant", "");
                    parameters.push((index, format!("{of_type} {name}")));
                }
                _ => {}
            }
        }
        parameters.sort();
        let parameters: Vec<String> = parameters.into_iter().map(|(_, text)| text).collect();
        let arguments = arguments(entry, |argument, of_type, name| match argument {
            Argument::Buffer { .. } | Argument::Constant { .. } => name.to_owned(),
            Argument::Threadgroup { .. } => format!("({of_type})scratch"),
            Argument::Position(attribute) => position(attribute, of_type, ""),
            Argument::Unknown => String::new(),
        });
        let _ = writeln!(
            unit,
            "MSL_ENTRY void {name}({}) {{\n  MSL_SCRATCH\n{POSITIONS}  metal::{name}({arguments});\n}}",
            parameters.join(", ")
        );
    }
    unit.push_str("}\n}\n");
    unit
}

/// Declares what [`position`] names, for a GPU.
const POSITIONS: &str = "\
  unsigned in_group[3] = {MSL_THREAD_ID.x, MSL_THREAD_ID.y, MSL_THREAD_ID.z};
  unsigned group[3] = {MSL_GROUP_ID.x, MSL_GROUP_ID.y, MSL_GROUP_ID.z};
  unsigned group_size[3] = {MSL_GROUP_SIZE.x, MSL_GROUP_SIZE.y, MSL_GROUP_SIZE.z};
  unsigned groups[3] = {MSL_GROUPS.x, MSL_GROUPS.y, MSL_GROUPS.z};
  unsigned in_grid[3], grid_size[3];
  for (int i = 0; i < 3; i++) {
    in_grid[i] = group[i] * group_size[i] + in_group[i];
    grid_size[i] = groups[i] * group_size[i];
  }
  unsigned index = (in_group[2] * group_size[1] + in_group[1]) * group_size[0] + in_group[0];
  unsigned lane = index & 31, simd = index >> 5;
  unsigned simds = (group_size[0] * group_size[1] * group_size[2] + 31) >> 5;
  (void)in_grid; (void)grid_size; (void)lane; (void)simd; (void)simds; (void)scratch;
";

/// Attributes of a position and what they are in a thunk; those of the first list have up to three components.
const VECTORS: &[(&str, &str)] = &[
    ("thread_position_in_grid", "in_grid"),
    ("threadgroup_position_in_grid", "group"),
    ("thread_position_in_threadgroup", "in_group"),
    ("threads_per_threadgroup", "group_size"),
    ("dispatch_threads_per_threadgroup", "group_size"),
    ("threads_per_grid", "grid_size"),
    ("threadgroups_per_grid", "groups"),
];
const SCALARS: &[(&str, &str)] = &[
    ("thread_index_in_threadgroup", "index"),
    ("thread_index_in_simdgroup", "lane"),
    ("simdgroup_index_in_threadgroup", "simd"),
    ("simdgroups_per_threadgroup", "simds"),
    ("dispatch_simdgroups_per_threadgroup", "simds"),
];
const WIDTHS: &[&str] = &["threads_per_simdgroup", "thread_execution_width"];

/// How many components an attribute of a position may have; none if there is no such attribute.
pub(crate) fn components(attribute: &str) -> Option<usize> {
    let one = SCALARS.iter().map(|(name, _)| name).chain(WIDTHS).any(|name| *name == attribute);
    let three = VECTORS.iter().any(|(name, _)| *name == attribute);
    if three { Some(3) } else { one.then_some(1) }
}

fn position(attribute: &str, of_type: &str, place: &str) -> String {
    if let Some((_, field)) = VECTORS.iter().find(|(name, _)| *name == attribute) {
        return format!("__from<{of_type}>::three({place}{field})");
    }
    match SCALARS.iter().find(|(name, _)| *name == attribute) {
        Some((_, field)) => format!("({of_type}){place}{field}"),
        None => "32".to_owned(),
    }
}

fn host_argument(argument: &Argument, of_type: &str, _: &str) -> String {
    match argument {
        Argument::Buffer { index, .. } => format!("({of_type})t->buffers[{index}]"),
        Argument::Constant { index } => match of_type.strip_suffix('&') {
            Some(referred) => format!("*({referred}*)t->buffers[{index}]"),
            None => format!("({of_type})t->buffers[{index}]"),
        },
        Argument::Threadgroup { .. } => format!("({of_type})t->scratch"),
        Argument::Position(attribute) => position(attribute, of_type, "t->"),
        Argument::Unknown => String::new(),
    }
}

fn arguments(entry: &Entry, text: impl Fn(&Argument, &str, &str) -> String) -> String {
    let parts = entry.parameters.iter();
    let parts = parts.map(|part| text(&part.argument, &part.of_type, &part.name));
    parts.collect::<Vec<_>>().join(", ")
}

/// The rewritten texts inside `namespace metal {`, so that Metal's names come before a compiler's own.
fn body(source: &Source) -> String {
    let mut edits: Vec<(&Spot, String)> = Vec::new();
    for array in &source.arrays {
        let (of_type, name, dims) = (&array.of_type, &array.name, &array.dims);
        edits.push((&array.spot, format!("MSL_THREADGROUP({of_type}, {name}, {dims});")));
    }
    for constant in &source.constants {
        let (of_type, name, index) = (&constant.of_type, &constant.name, constant.index);
        let text = format!("MSL_FUNCTION_CONSTANT({of_type}, {name}, {index});");
        edits.push((&constant.spot, text));
    }
    edits.extend(source.tables.iter().map(|spot| (spot, "MSL_TABLE".to_owned())));
    edits.sort_by_key(|(spot, _)| (spot.piece, spot.bytes.start));
    let mut unit =
        "#include <metal_stdlib>\n#include \"msl/entry.h\"\nnamespace metal {\n".to_owned();
    for (i, piece) in source.pieces.iter().enumerate() {
        let _ = writeln!(unit, "#line 1 \"{}\"", piece.file.replace(['\\', '"'], "/"));
        let text = without_attributes(&piece.text);
        let mut from = 0;
        for (spot, edit) in edits.iter().filter(|(spot, _)| spot.piece == i) {
            unit.push_str(&text[from..spot.bytes.start]);
            unit.push_str(edit);
            let lines = piece.text[spot.bytes.clone()].matches('\n').count();
            unit.push_str(&"\n".repeat(lines));
            from = spot.bytes.end;
        }
        unit.push_str(&text[from..]);
        unit.push('\n');
    }
    unit.push_str("#line 1 \"entries\"\n");
    unit
}

/// The text with each `[[attribute]]` blank: no compiler here knows them, and one stumbles over `threadgroup` in them.
fn without_attributes(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let tokens = tokens(text);
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].is("[") && pair[1].is("[") && pair[0].end() == pair[1].at {
            let end = crate::read::closing(&tokens, at).map_or(text.len(), |end| tokens[end].end());
            for byte in bytes[pair[0].at..end].iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}
