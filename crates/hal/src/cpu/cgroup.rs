//! Memory limits of control groups, versions 1 and 2.
use std::path::Path;

/// What a control group lets its processes use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    pub(super) bytes: u64,
    pub(super) bytes_free: u64,
}

/// Where a version keeps its groups, and how its files are called.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The field of `memory.stat` for pages of files that were read once: the system drops them when memory is short.
    file_cache: &'static str,
}

const VERSION_1: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    file_cache: "total_inactive_file",
};
const VERSION_2: Version = Version {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    file_cache: "inactive_file",
};

/// The least of the limits of this process's groups and all above them. None where there is no limit. `read` gives the text
/// of a file of the system.
pub(super) fn memory_limit(read: impl Fn(&Path) -> Option<String>) -> Option<MemoryLimit> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mut least: Option<MemoryLimit> = None;
    // Lines are `number:controllers:group`; version 2 has no list of controllers.
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => &VERSION_2,
            _ if controllers.split(',').any(|name| name == "memory") => &VERSION_1,
            _ => continue,
        };
        // In a container, the path may be that of the host: then only the root is there, and it is the container's.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let Some(limit) = version.limit_of(&Path::new(version.root).join(group), &read) else {
                continue;
            };
            let before = least.unwrap_or(limit);
            least = Some(MemoryLimit {
                bytes: limit.bytes.min(before.bytes),
                bytes_free: limit.bytes_free.min(before.bytes_free),
            });
        }
    }
    least
}

impl Version {
    fn limit_of(
        &self,
        group: &Path,
        read: impl Fn(&Path) -> Option<String>,
    ) -> Option<MemoryLimit> {
        // `max`, for no limit, is no number.
        let number = |file: &str| read(&group.join(file))?.trim().parse::<u64>().ok();
        let bytes = number(self.limit)?;
        let used = number(self.used)?;
        let stat = read(&group.join("memory.stat")).unwrap_or_default();
        let cache = stat.lines().find_map(|line| {
            let (field, value) = line.split_once(' ')?;
            (field == self.file_cache).then(|| value.parse::<u64>().ok())?
        });
        let needed = used.saturating_sub(cache.unwrap_or(0));
        Some(MemoryLimit { bytes, bytes_free: bytes.saturating_sub(needed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(files: &[(&str, &str)]) -> Option<MemoryLimit> {
        memory_limit(|path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.to_owned())
        })
    }

    #[test]
    fn version_2_takes_the_least_of_a_group_and_those_above() {
        let mut files = vec![
            ("/proc/self/cgroup", "0::/user.slice/model.service\n"),
            ("/sys/fs/cgroup/user.slice/model.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/model.service/memory.current", "500\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "1000\n"),
            ("/sys/fs/cgroup/user.slice/memory.current", "700\n"),
            ("/sys/fs/cgroup/user.slice/memory.stat", "anon 450\ninactive_file 250\n"),
        ];
        // 700 used, 250 of them droppable: 1000 - 450.
        assert_eq!(limit(&files), Some(MemoryLimit { bytes: 1000, bytes_free: 550 }));
        files[1].1 = "600\n";
        assert_eq!(limit(&files), Some(MemoryLimit { bytes: 600, bytes_free: 100 }));
        files.truncate(3);
        files[1].1 = "max\n";
        assert_eq!(limit(&files), None);
    }

    #[test]
    fn version_1_in_a_container_finds_its_root() {
        let files = [
            ("/proc/self/cgroup", "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 9\ntotal_inactive_file 1000\n"),
        ];
        assert_eq!(limit(&files), Some(MemoryLimit { bytes: 4096, bytes_free: 96 }));
    }
}
