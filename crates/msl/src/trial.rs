//! One launch of one kernel on a device of its own: what a test of a kernel needs, and an author without a test.
#![expect(unsafe_code, reason = "prepares the launch")]
use crate::clang::Checks;
use crate::soft::{Schedule, Soft, SoftOptions};
use hal::{Command, Commands, Device as _, Launch, Memory, Program, Result, Span, Timing};

/// See the module.
#[derive(Clone, Debug)]
pub struct Trial {
    pub program: &'static Program,
    /// The contents of each span, and whether the kernel writes it.
    pub spans: Vec<(Vec<u8>, bool)>,
    pub constants: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub scratch_bytes: u32,
}

impl Trial {
    /// Runs it under AddressSanitizer and UBSan, or looking for races, in another process. The written spans come back.
    ///
    /// # Errors
    /// As of [`hal::Device`]; what was found is [`hal::Error::Lost`].
    pub fn run_apart(&self, schedule: Schedule, races: bool) -> Result<Vec<Vec<u8>>> {
        let checks = if races { Checks::Races } else { Checks::Memory };
        // SAFETY: another process runs the kernel, on copies.
        unsafe { self.run(SoftOptions { schedule, checks }) }
    }

    /// Runs it. The written spans come back.
    ///
    /// # Errors
    /// As of [`hal::Device`].
    ///
    /// # Safety
    /// Without checks the spans and constants must be what the kernel asks for, as for [`hal::Device::prepare`].
    pub unsafe fn run(&self, options: SoftOptions) -> Result<Vec<Vec<u8>>> {
        let device = Soft::open(options)?;
        let mut commands = Commands { constants: self.constants.clone(), ..Commands::default() };
        let mut writes = 0;
        for (i, (contents, written)) in self.spans.iter().enumerate() {
            let bytes = contents.len() as u64;
            let span = Span { buffer: device.alloc(Memory::Bytes(bytes))?, offset: 0, bytes };
            device.write(span, contents)?;
            commands.spans.push(span);
            writes |= u32::from(*written) << i;
        }
        let end = |length: usize| 0..u32::try_from(length).unwrap_or(u32::MAX);
        commands.list.push(Command::Launch(Launch {
            kernel: device.load(self.program)?,
            grid: self.grid,
            block: self.block,
            scratch_bytes: self.scratch_bytes,
            spans: end(self.spans.len()),
            writes,
            constants: end(self.constants.len()),
        }));
        // SAFETY: the caller's promise.
        let prepared = unsafe { device.prepare(&commands)? };
        device.wait(device.submit(prepared, Timing::Off)?)?;
        let written = self.spans.iter().zip(&commands.spans).filter(|((_, written), _)| *written);
        let read = written.map(|((contents, _), span)| {
            let mut result = vec![0; contents.len()];
            device.read(*span, &mut result).map(|()| result)
        });
        read.collect()
    }
}
