//! Recorded commands, translated once into what an encoder is told at every step.
use super::library::Pipeline;
use super::memory::length;
use super::run::{COPY_BYTES, COPY_WORDS, FILL_BYTES, FILL_WORDS, constants};
use super::{Metal, State};
use crate::{Buffer, Command, Commands, Error, Kernel, Launch, Program, Result, Span};
use objc2_metal::{MTLComputePipelineState as _, MTLDevice as _, MTLSize};
use std::ops::Range;

/// Of one encoder: buffers and bytes together.
pub(super) const BUFFERS_MAX: usize = 31;
/// Of `setBytes`.
const CONSTANTS_BYTES_MAX: usize = 4096;

/// Threads of a group that copies or fills.
const RUN_THREADS: u32 = 256;

/// A launch as the encoder sees it.
#[derive(Debug)]
pub(super) struct Dispatch {
    /// Whether all earlier dispatches must have ended.
    pub(super) barrier: bool,
    pub(super) kernel: Kernel,
    /// Into [`Steps::bindings`]: the buffers by their index.
    pub(super) bindings: Range<usize>,
    /// Into [`Steps::constants`]; bound after the buffers.
    pub(super) constants: Range<usize>,
    pub(super) scratch_bytes: usize,
    pub(super) groups: MTLSize,
    pub(super) threads: MTLSize,
}

/// A place in a buffer of [`Steps::tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) table: usize,
    pub(super) offset: usize,
}

/// A buffer that the commands use. The handle and not the memory, so that a freed buffer is really free.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) buffer: Buffer,
    pub(super) window: usize,
    pub(super) written: bool,
}

/// Prepared commands.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) list: Vec<Dispatch>,
    pub(super) bindings: Vec<Binding>,
    pub(super) tables: Vec<Table>,
    pub(super) constants: Vec<u8>,
    /// Launches of each kernel in one submit.
    pub(super) counts: Vec<(Kernel, u64)>,
}

impl Metal {
    /// Translates checked commands.
    pub(super) fn steps(&self, commands: &Commands) -> Result<Steps> {
        let mut plan = Plan {
            steps: Steps { constants: commands.constants.clone(), ..Steps::default() },
            metal: self,
            barrier: false,
        };
        for ((index, command), barrier) in
            commands.list.iter().enumerate().zip(crate::barriers(commands))
        {
            match command {
                Command::Launch(launch) => plan.launch((index, barrier), commands, launch)?,
                Command::Copy { source, target } => {
                    let words = [source.offset, target.offset, target.bytes]
                        .iter()
                        .all(|n| n.is_multiple_of(4));
                    let program = if words { &COPY_WORDS } else { &COPY_BYTES };
                    plan.run(barrier, program, (&[*source, *target], words), 0)?;
                }
                Command::Fill { target, byte } => {
                    let words = [target.offset, target.bytes].iter().all(|n| n.is_multiple_of(4));
                    let program = if words { &FILL_WORDS } else { &FILL_BYTES };
                    plan.run(
                        barrier,
                        program,
                        (&[*target], words),
                        u32::from_le_bytes([*byte; 4]),
                    )?;
                }
            }
        }
        Ok(plan.steps)
    }
}

struct Plan<'a> {
    steps: Steps,
    metal: &'a Metal,
    /// Whether the next dispatch must wait although its own command need not: a copy of nothing has no dispatch.
    barrier: bool,
}

impl Plan<'_> {
    fn launch(
        &mut self,
        (index, barrier): (usize, bool),
        commands: &Commands,
        launch: &Launch,
    ) -> Result<()> {
        let spans = commands.spans_of(launch);
        let bad = |reason| Error::BadSpan { command: index, reason };
        let scratch_bytes = launch.scratch_bytes as usize;
        let constants = launch.constants.start as usize..launch.constants.end as usize;
        let mut state = self.metal.state();
        let pipeline = &state.kernels.get(launch.kernel.0)?.pipeline;
        limits(self.metal, pipeline, launch, spans.len()).map_err(bad)?;
        let bindings = self.bind(&mut state, spans, launch.writes)?;
        drop(state);
        let [groups, threads] = [launch.grid, launch.block].map(size);
        let kernel = launch.kernel;
        self.push(Dispatch {
            barrier,
            kernel,
            bindings,
            constants,
            scratch_bytes,
            groups,
            threads,
        });
        Ok(())
    }

    /// One of the programs above over its spans, the last of which is written: in parts that 32 bits can count.
    fn run(
        &mut self,
        barrier: bool,
        program: &'static Program,
        (spans, words): (&[Span], bool),
        value: u32,
    ) -> Result<()> {
        const PART: u64 = 1 << 30;
        let kernel = crate::Device::load(self.metal, program)?;
        let bytes = spans.last().map_or(0, |span| span.bytes);
        self.barrier |= barrier;
        let mut done = 0;
        while done < bytes {
            let part = PART.min(bytes - done);
            let spans: Vec<Span> = spans.iter().map(|span| span.part(done, part)).collect();
            let count = u32::try_from(if words { part / 4 } else { part }).unwrap_or(u32::MAX);
            let start = self.steps.constants.len();
            self.steps.constants.extend(constants(count, value));
            let mut state = self.metal.state();
            let bindings = self.bind(&mut state, &spans, 1 << (spans.len() - 1))?;
            drop(state);
            self.push(Dispatch {
                barrier: false,
                kernel,
                bindings,
                constants: start..self.steps.constants.len(),
                scratch_bytes: 0,
                groups: size([count.div_ceil(RUN_THREADS), 1, 1]),
                threads: size([RUN_THREADS, 1, 1]),
            });
            done += part;
        }
        Ok(())
    }

    fn push(&mut self, mut dispatch: Dispatch) {
        dispatch.barrier |= std::mem::take(&mut self.barrier);
        let counts = &mut self.steps.counts;
        match counts.iter_mut().find(|(kernel, _)| *kernel == dispatch.kernel) {
            Some((_, count)) => *count += 1,
            None => counts.push((dispatch.kernel, 1)),
        }
        self.steps.list.push(dispatch);
    }

    fn bind(&mut self, state: &mut State, spans: &[Span], writes: u32) -> Result<Range<usize>> {
        let start = self.steps.bindings.len();
        for (i, span) in spans.iter().enumerate() {
            let written = writes >> i & 1 == 1;
            let (window, first) = state.window(&self.metal.device, *span)?;
            let tables = &mut self.steps.tables;
            let known = tables
                .iter()
                .position(|table| table.buffer == span.buffer && table.window == window);
            let table = known.unwrap_or_else(|| {
                tables.push(Table { buffer: span.buffer, window, written });
                tables.len() - 1
            });
            tables[table].written |= written;
            self.steps.bindings.push(Binding { table, offset: length(span.offset - first) });
        }
        Ok(start..self.steps.bindings.len())
    }
}

fn size([width, height, depth]: [u32; 3]) -> MTLSize {
    MTLSize { width: width as usize, height: height as usize, depth: depth as usize }
}

/// What Metal would refuse, or answer with undefined behaviour.
fn limits(
    metal: &Metal,
    pipeline: &Pipeline,
    launch: &Launch,
    spans: usize,
) -> std::result::Result<(), String> {
    let threads = launch.block.iter().map(|n| *n as usize).product::<usize>();
    let groups = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    let most = pipeline.maxTotalThreadsPerThreadgroup();
    if threads == 0 || threads > most || groups == 0 {
        return Err(format!(
            "{groups} threadgroups of {threads} threads; this kernel runs 1 to {most} threads on this GPU"
        ));
    }
    let limit = metal.device.maxThreadsPerThreadgroup();
    let [x, y, z] = launch.block.map(|n| n as usize);
    if x > limit.width || y > limit.height || z > limit.depth {
        return Err(format!(
            "threadgroups of {x} x {y} x {z}, at most {} x {} x {}",
            limit.width, limit.height, limit.depth
        ));
    }
    let scratch = launch.scratch_bytes as usize;
    let own = pipeline.staticThreadgroupMemoryLength();
    let most = metal.device.maxThreadgroupMemoryLength();
    if scratch + own > most || !scratch.is_multiple_of(16) {
        return Err(format!(
            "{scratch} bytes of threadgroup memory beside the kernel's {own}; a multiple of 16, {most} in all"
        ));
    }
    let constants = launch.constants.len();
    if spans + usize::from(constants > 0) > BUFFERS_MAX || constants > CONSTANTS_BYTES_MAX {
        return Err(format!(
            "{spans} spans and {constants} bytes of constants; {BUFFERS_MAX} buffers and {CONSTANTS_BYTES_MAX} bytes at most"
        ));
    }
    Ok(())
}
