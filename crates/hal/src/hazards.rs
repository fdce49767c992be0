//! Where commands must wait for the ones before them.
use crate::{Command, Commands, Span};

/// `result[i]` says that command `i` must wait until every earlier command has ended.
///
/// A barrier stands only where a command touches what an unfinished one writes, or writes what an unfinished one
/// touches; everything between two barriers may run at the same time.
#[must_use]
pub fn barriers(commands: &Commands) -> Vec<bool> {
    let mut running: Vec<(Span, bool)> = Vec::new();
    let mut result = Vec::with_capacity(commands.list.len());
    for command in &commands.list {
        let conflict = conflicts(commands, command, &running);
        if conflict {
            running.clear();
        }
        result.push(conflict);
        commands.accesses(command, |span, written| running.push((*span, written)));
    }
    result
}

fn conflicts(commands: &Commands, command: &Command, running: &[(Span, bool)]) -> bool {
    let mut found = false;
    commands.accesses(command, |span, written| {
        found |= running.iter().any(|(other, wrote)| (written || *wrote) && span.overlaps(other));
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Slots};

    fn copies(pairs: &[(u64, u64)]) -> Vec<bool> {
        let buffer = Buffer(Slots::new("test", 1).insert(()));
        let span = |at: u64| Span { buffer, offset: at * 4, bytes: 4 };
        let list = pairs.iter().map(|(s, t)| Command::Copy { source: span(*s), target: span(*t) });
        barriers(&Commands { list: list.collect(), ..Commands::default() })
    }

    #[test]
    fn independent_work_needs_no_barrier() {
        assert_eq!(copies(&[(0, 1), (0, 2), (0, 3)]), [false, false, false]);
    }

    #[test]
    fn each_kind_of_hazard_needs_one() {
        assert_eq!(copies(&[(0, 1), (1, 2)]), [false, true], "read after write");
        assert_eq!(copies(&[(0, 1), (2, 1)]), [false, true], "write after write");
        assert_eq!(copies(&[(0, 1), (2, 0)]), [false, true], "write after read");
    }

    #[test]
    fn a_barrier_orders_everything_before_it() {
        // The third copy depends on the first only, which the barrier before the second already ended.
        assert_eq!(copies(&[(0, 1), (1, 2), (1, 3), (2, 4)]), [false, true, false, true]);
    }
}
