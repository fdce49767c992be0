//! `russet devices`: every kind of device, what was found and why the others cannot be used.
use crate::table::{Align, Table, bytes};
use hal::{MatrixUnits, Row};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;

pub(crate) fn devices(as_json: bool) -> anyhow::Result<ExitCode> {
    let rows = hal::probe();
    let mut out = std::io::stdout().lock();
    if as_json {
        let rows: Vec<Value> = rows.iter().map(json_of).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        write!(out, "{}", table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("kind", Align::Left),
        ("--device", Align::Left),
        ("available", Align::Left),
        ("name", Align::Left),
        ("memory", Align::Right),
        ("threads", Align::Right),
        ("SIMD lanes", Align::Right),
        ("matrix units", Align::Left),
        ("features, or why not", Align::Left),
    ]);
    for row in rows {
        let none = || "-".to_owned();
        let (kind, selector) = (row.kind.name().to_owned(), row.selector.clone());
        table.row(match &row.device {
            Ok(info) => [
                kind,
                selector,
                "yes".to_owned(),
                info.name.clone(),
                bytes(info.memory_bytes),
                if info.threads == 0 { none() } else { info.threads.to_string() },
                info.simd_width.to_string(),
                matrix_units(info.matrix_units).to_owned(),
                info.features.join(" "),
            ],
            Err(why) => [
                kind,
                selector,
                "no".to_owned(),
                none(),
                none(),
                none(),
                none(),
                none(),
                why.clone(),
            ],
        });
    }
    table
}

/// One device as JSON. Every row has the same fields.
pub(crate) fn json_of(row: &Row) -> Value {
    let info = row.device.as_ref().ok();
    json!({
        "kind": row.kind.name(),
        "selector": row.selector,
        "available": info.is_some(),
        "why_not": row.device.as_ref().err(),
        "name": info.map(|info| &info.name),
        "system": info.map(|info| &info.system),
        "memory_bytes": info.map(|info| info.memory_bytes),
        "unified_memory": info.map(|info| info.unified),
        "threads": info.map(|info| info.threads),
        "threads_why": info.map(|info| info.threads_why),
        "simd_lanes": info.map(|info| info.simd_width),
        "matrix_units": info.map(|info| matrix_units(info.matrix_units)),
        "features": info.map(|info| &info.features),
    })
}

const fn matrix_units(units: MatrixUnits) -> &'static str {
    match units {
        MatrixUnits::None => "none",
        MatrixUnits::Dot4 => "dot products of 4 bytes",
        MatrixUnits::Tiles => "tiles",
        MatrixUnits::Tensor => "tensor ops",
    }
}
