//! How many threads a step runs on, where nobody says it.
//!
//! Threads are not pinned. A pinned thread waits for its core while another program has it, and every thread of the step
//! waits with it; a free one is moved to a core that is idle. The system keeps a thread on its core as it is.
use super::apple;
use std::collections::HashSet;

/// How many threads, and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    pub(crate) count: usize,
    pub(crate) why: &'static str,
}

/// The threads that this process may use and that make a step faster, from what the system reports.
#[must_use]
pub fn default_threads() -> usize {
    chosen().count
}

pub(super) fn chosen() -> Threads {
    // Honours the affinity mask, and quotas of control groups of both versions, rounded down.
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let status = std::fs::read_to_string("/proc/thread-self/status").ok();
    let mask = status.as_deref().and_then(allowed_processors);
    choose(allowed, mask.as_deref(), apple::performance_cores(), |processor| {
        let topology = format!("/sys/devices/system/cpu/cpu{processor}/topology");
        // The first name is the newer one.
        ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|file| std::fs::read_to_string(format!("{topology}/{file}")).ok())
    })
}

/// `mask` are the processors that the affinity mask leaves; `siblings` names those on the core of one.
fn choose(
    allowed: usize,
    mask: Option<&[usize]>,
    performance_cores: Option<usize>,
    siblings: impl Fn(usize) -> Option<String>,
) -> Threads {
    if let Some(count) = performance_cores
        && count < allowed
    {
        return Threads { count, why: "one for each performance core" };
    }
    let Some(mask) = mask else {
        return Threads { count: allowed, why: "as many as the system allows" };
    };
    // Hardware threads of one core share the units that multiply and the way to memory: two are no faster than one.
    let cores: Option<HashSet<String>> =
        mask.iter().map(|&processor| siblings(processor)).collect();
    match cores {
        Some(cores) if cores.len() <= allowed => Threads {
            count: cores.len().max(1),
            why: "one for each core that this process may use",
        },
        _ if allowed < mask.len() => Threads { count: allowed, why: "the control group's quota" },
        _ => Threads { count: allowed, why: "one for each processor that this process may use" },
    }
}

/// From `/proc/*/status`: the processors that the affinity mask and the cpuset leave.
fn allowed_processors(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut processors = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        processors.extend(first..=last);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_ranges_and_numbers() {
        let status =
            "Name:\trusset\nCpus_allowed:\tf1\nCpus_allowed_list:\t0,4-7\nMems_allowed:\t1\n";
        assert_eq!(allowed_processors(status), Some(vec![0, 4, 5, 6, 7]));
        assert_eq!(allowed_processors("Cpus_allowed_list:\t3\n"), Some(vec![3]));
        assert_eq!(allowed_processors("Cpus_allowed_list:\tall\n"), None);
        assert_eq!(allowed_processors("Name:\trusset\n"), None);
    }

    /// Eight processors on four cores: 0 and 4 are siblings, as are 1 and 5, and so on.
    fn pairs(processor: usize) -> Option<String> {
        Some(format!("{},{}\n", processor % 4, processor % 4 + 4))
    }

    #[test]
    fn siblings_share_a_core() {
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(choose(8, Some(&all), None, pairs).count, 4);
        assert_eq!(choose(4, Some(&[0, 1, 4, 5]), None, pairs).count, 2);
        assert_eq!(choose(2, Some(&[0, 1]), None, pairs).count, 2);
        // No topology, as in some containers.
        assert_eq!(choose(8, Some(&all), None, |_| None).count, 8);
    }

    #[test]
    fn a_quota_below_the_cores_decides() {
        let all: Vec<usize> = (0..8).collect();
        let quota = Threads { count: 3, why: "the control group's quota" };
        assert_eq!(choose(3, Some(&all), None, pairs), quota);
        assert_eq!(choose(6, Some(&all), None, pairs).count, 4);
    }

    #[test]
    fn efficiency_cores_are_left_alone() {
        let threads = Threads { count: 6, why: "one for each performance core" };
        assert_eq!(choose(10, None, Some(6), pairs), threads);
        assert_eq!(choose(4, None, Some(6), pairs).count, 4);
    }
}
