//! Compiles a template and replaces each instruction that makes or walks values by a call that pays.

use super::source::{reason, whitespace};
use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig};
use minijinja::{AutoEscape, Value};
use std::sync::Arc;

const UNPRICED: &str = "chained comparisons, unpacked arguments, autoescape, blocks and other templates are not supported";

/// Compiles a text that [`super::source::prepared`] returned; the result runs within the budget.
pub(super) fn compiled(source: &str) -> Result<Instructions<'_>, String> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: whitespace(),
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let code =
        CompiledTemplate::new("chat template", source, &config).map_err(|error| reason(&error))?;
    priced(&code.instructions)
}

/// The same program with the replacements of [`exchange`].
fn priced<'s>(code: &Instructions<'s>) -> Result<Instructions<'s>, String> {
    // Where each instruction begins after the replacement: jumps need it.
    let mut places = vec![0];
    for instruction in all(code) {
        places.push(places[places.len() - 1] + size(instruction));
    }
    let mut priced = Instructions::new(code.name(), code.source());
    for (index, instruction) in (0..).zip(all(code)) {
        let line = code.get_line(index).unwrap_or(0);
        let exchanged = exchange(instruction, &places).ok_or(format!("line {line}: {UNPRICED}"))?;
        for instruction in exchanged {
            priced.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX));
        }
    }
    Ok(priced)
}

fn all<'c, 's>(code: &'c Instructions<'s>) -> impl Iterator<Item = &'c Instruction<'s>> {
    (0..).map_while(move |index| code.get(index))
}

/// Number of instructions that [`exchange`] makes of one.
fn size(instruction: &Instruction) -> u32 {
    match instruction {
        Instruction::EmitRaw(_) | Instruction::UnpackList(_) => 2,
        Instruction::SetAttr(_) => 4,
        _ => 1,
    }
}

/// The replacement of one instruction; `None` if it has no price. The names that are called cannot
/// be written in a template, so a template cannot redefine them.
fn exchange<'s>(instruction: &Instruction<'s>, places: &[u32]) -> Option<Vec<Instruction<'s>>> {
    use Instruction as I;
    Some(match instruction {
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::SetAttr(name) => vec![I::Swap, call("held", 1), I::Swap, I::SetAttr(name)],
        I::UnpackList(count) => vec![call("()", 1), I::UnpackList(*count)],
        I::BuildList(Some(count)) => vec![call("[]", u16::try_from(*count).ok()?)],
        // The items that `for … if …` kept: fuel counts one instruction for each.
        I::BuildList(None) => same(instruction),
        I::BuildMap(pairs) => vec![call("{}", u16::try_from(pairs * 2).ok()?)],
        I::Slice => vec![call("[:]", 4)],
        I::GetItem => vec![call("[i]", 2)],
        I::Add => vec![call("+", 2)],
        I::Mul => vec![call("*", 2)],
        I::StringConcat => vec![call("~", 2)],
        I::Eq => vec![call("==", 2)],
        I::Ne => vec![call("!=", 2)],
        I::Lt => vec![call("<", 2)],
        I::Lte => vec![call("<=", 2)],
        I::Gt => vec![call(">", 2)],
        I::Gte => vec![call(">=", 2)],
        I::In => vec![call("∈", 2)],
        I::Iterate(target) => vec![I::Iterate(moved(*target, places))],
        I::Jump(target) => vec![I::Jump(moved(*target, places))],
        I::JumpIfFalse(target) => vec![I::JumpIfFalse(moved(*target, places))],
        I::JumpIfFalseOrPop(target) => vec![I::JumpIfFalseOrPop(moved(*target, places))],
        I::JumpIfTrueOrPop(target) => vec![I::JumpIfTrueOrPop(moved(*target, places))],
        I::BuildMacro(name, target, flags) => {
            vec![I::BuildMacro(name, moved(*target, places), *flags)]
        }
        I::StoreLocal(_)
        | I::Lookup(_)
        | I::GetAttr(_)
        | I::LoadConst(_)
        | I::BuildKwargs(_)
        | I::Emit => same(instruction),
        I::Sub | I::Div | I::IntDiv | I::Rem | I::Pow | I::Neg | I::Not | I::IsUndefined => {
            same(instruction)
        }
        I::ApplyFilter(..) | I::PerformTest(..) | I::CallFunction(..) | I::CallMethod(..) => {
            same(instruction)
        }
        I::CallObject(_) | I::DupTop | I::DiscardTop | I::Swap | I::Return => same(instruction),
        I::PushLoop(_) | I::PushWith | I::PushDidNotIterate | I::PopFrame | I::PopLoopFrame => {
            same(instruction)
        }
        I::BeginCapture(_) | I::EndCapture | I::FastRecurse | I::Enclose(_) | I::GetClosure => {
            same(instruction)
        }
        _ => return None,
    })
}

fn call<'s>(name: &'static str, operands: u16) -> Instruction<'s> {
    Instruction::CallFunction(name, Some(operands))
}

fn same<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    vec![instruction.clone()]
}

/// A jump's target in the new program.
fn moved(target: u32, places: &[u32]) -> u32 {
    places[target as usize]
}
