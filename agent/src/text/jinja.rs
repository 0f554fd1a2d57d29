//! Renders the Jinja of Hugging Face chat templates, with a bound on the work that a template may ask for.
//!
//! A template comes with a model that a stranger made, and three lines of Jinja double a text until memory is full:
//! fuel counts instructions, not what one instruction makes. So every instruction that makes or walks a value is
//! exchanged, before it runs, for a call that pays out of one budget ([`WORK`] bytes and nodes); filters and methods
//! pay likewise, and what cannot be priced (operators on splats, chained comparisons, format strings) is refused.
//! This needs minijinja's unstable machinery, so its version is pinned.
//!
//! Follows transformers' environment: `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `tojson`,
//! `strftime_now`, `{% generation %}`, Python's string methods, and Python's spelling of `None`, `True` and lists.
//! Knows nothing of messages or turns.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value, filters, functions,
    machinery::{
        CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, Vm, WhitespaceConfig,
    },
    machinery::{make_string_output, tokenize},
    tests as checks,
    value::{Kwargs, Rest, ValueKind, from_args},
};
use minijinja_contrib::pycompat;
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What one rendering may make: bytes of text, plus [`NODE`] for each value in a list or map.
const WORK: u64 = 8 << 20;
/// What a value costs beside its text.
const NODE: u64 = 32;
/// Instructions that one rendering may run.
const FUEL: u64 = 200_000;
/// Lists in lists, macros in macros.
const DEPTH: usize = 32;
/// Longest template, in bytes; those in use have at most a third of it.
const SOURCE: usize = 60_000;
/// Words in one tag, and `elif` in one template: each may deepen the compiler's own recursion.
const WORDS: usize = 400;
/// Characters before a line inside `tojson(indent=…)`, for each level.
const INDENT: usize = 16;

const UNPRICED: &str = "chained comparisons, unpacked arguments, autoescape, blocks and other templates are not supported";

/// Says whether a template can be compiled.
pub(crate) fn check(source: &str) -> Result<(), String> {
    let source = prepared(source)?;
    compiled(&source).map(drop)
}

/// Renders a template with the variables of `context`.
pub(crate) fn render(source: &str, context: Value) -> Result<String, String> {
    let source = prepared(source)?;
    let code = compiled(&source)?;
    let environment = environment(&Arc::new(Budget(AtomicU64::new(WORK))));
    let (mut text, blocks) = (String::new(), BTreeMap::new());
    let mut output = make_string_output(&mut text);
    Vm::new(&environment)
        .eval(&code, context, &blocks, &mut output, AutoEscape::None)
        .map(drop)
        .map_err(|error| told(&error))?;
    Ok(text)
}

fn told(error: &Error) -> String {
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    format!(
        "{line}{}",
        error
            .detail()
            .map_or_else(|| error.kind().to_string(), str::to_string)
    )
}

fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

// From text to instructions.

fn whitespace() -> WhitespaceConfig {
    WhitespaceConfig {
        keep_trailing_newline: false,
        lstrip_blocks: true,
        trim_blocks: true,
    }
}

fn prepared(source: &str) -> Result<String, String> {
    if source.len() > SOURCE {
        return Err(format!(
            "{} bytes are too long for a template; at most {SOURCE} are taken",
            source.len()
        ));
    }
    let source = without_generation(source);
    check_words(&source)?;
    Ok(source)
}

/// `{% generation %}` marks what the policy wrote and renders as its body, so `{% if true %}` stands in for it.
fn without_generation(source: &str) -> String {
    let (mut kept, mut rest) = (String::new(), source);
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        let sign = &tag[..usize::from(tag.starts_with(['-', '+']))];
        let word = tag[sign.len()..].trim_start();
        let exchange = [("generation", " if true "), ("endgeneration", " endif ")]
            .into_iter()
            .find_map(|(name, by)| {
                let after = word.strip_prefix(name)?.trim_start();
                after
                    .trim_start_matches(['-', '+'])
                    .starts_with("%}")
                    .then_some((by, after))
            });
        kept.push_str(before);
        rest = tag;
        if let Some((by, after)) = exchange {
            kept.extend([sign, by]);
            rest = after;
        }
    }
    kept + rest
}

/// Refuses what would keep the compiler itself busy: folded `'a' * 1000000`, and depth without brackets.
fn check_words(source: &str) -> Result<(), String> {
    let (mut words, mut branches, mut in_tag_first, mut last) = (0, 0, false, Operand::Other);
    for token in tokenize(source, false, Default::default(), whitespace()) {
        let (token, span) = token.map_err(|error| told(&error))?;
        words = if matches!(token, Token::BlockStart | Token::VariableStart) {
            0
        } else {
            words + 1
        };
        branches += usize::from(in_tag_first && matches!(token, Token::Ident("elif")));
        in_tag_first = matches!(token, Token::BlockStart);
        if words > WORDS || branches > WORDS {
            return Err(format!(
                "line {}: more than {WORDS} words in a tag, or branches",
                span.start_line
            ));
        }
        let next = Operand::of(&token);
        if matches!(
            (last, next),
            (Operand::Times, Operand::Literal) | (Operand::Literal, Operand::Times)
        ) {
            return Err(format!(
                "line {}: `*` on texts, lists or arguments is not supported",
                span.start_line
            ));
        }
        last = next;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Operand {
    Times,
    Literal,
    Other,
}

impl Operand {
    fn of(token: &Token) -> Self {
        match token {
            Token::Mul | Token::Pow => Self::Times,
            Token::Str(_)
            | Token::String(_)
            | Token::BracketOpen
            | Token::BracketClose
            | Token::BraceOpen => Self::Literal,
            Token::BraceClose | Token::ParenOpen | Token::ParenClose | Token::Comma => {
                Self::Literal
            }
            _ => Self::Other,
        }
    }
}

fn compiled(source: &str) -> Result<Instructions<'_>, String> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: whitespace(),
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let code =
        CompiledTemplate::new("chat template", source, &config).map_err(|error| told(&error))?;
    guarded(&code.instructions)
}

/// The same instructions, those that make or walk values exchanged for calls that pay.
fn guarded<'s>(code: &Instructions<'s>) -> Result<Instructions<'s>, String> {
    let all = || (0..).map_while(|index| code.get(index));
    let mut places = vec![0];
    for instruction in all() {
        places.push(places[places.len() - 1] + size(instruction));
    }
    let mut priced = Instructions::new(code.name(), code.source());
    for (index, instruction) in (0..).zip(all()) {
        let line = code.get_line(index).unwrap_or(0);
        let exchanged = exchange(instruction, &places).ok_or(format!("line {line}: {UNPRICED}"))?;
        for instruction in exchanged {
            priced.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX));
        }
    }
    Ok(priced)
}

/// How many instructions [`exchange`] makes of one.
fn size(instruction: &Instruction) -> u32 {
    match instruction {
        Instruction::EmitRaw(_) | Instruction::UnpackList(_) => 2,
        Instruction::SetAttr(_) => 4,
        _ => 1,
    }
}

/// `None` for what has no price. Only names that no template can write are called, so none can take their place.
fn exchange<'s>(instruction: &Instruction<'s>, places: &[u32]) -> Option<Vec<Instruction<'s>>> {
    use Instruction as I;
    let call = |name, operands| I::CallFunction(name, Some(operands));
    let place = |target: &u32| places[*target as usize];
    Some(match instruction {
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::SetAttr(name) => vec![I::Swap, call("held", 1), I::Swap, I::SetAttr(name)],
        I::UnpackList(count) => vec![call("()", 1), I::UnpackList(*count)],
        I::BuildList(Some(count)) => vec![call("[]", u16::try_from(*count).ok()?)],
        // What `for … if …` kept, one instruction each.
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
        I::Iterate(target) => vec![I::Iterate(place(target))],
        I::Jump(target) => vec![I::Jump(place(target))],
        I::JumpIfFalse(target) => vec![I::JumpIfFalse(place(target))],
        I::JumpIfFalseOrPop(target) => vec![I::JumpIfFalseOrPop(place(target))],
        I::JumpIfTrueOrPop(target) => vec![I::JumpIfTrueOrPop(place(target))],
        I::BuildMacro(name, target, flags) => vec![I::BuildMacro(name, place(target), *flags)],
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

fn same<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    vec![instruction.clone()]
}

// The budget.

struct Budget(AtomicU64);

impl Budget {
    fn pay(&self, work: u64) -> Result<(), Error> {
        let paid = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(work));
        paid.map(drop).map_err(|_| {
            refused(format!(
                "the template makes more than {} MiB of text or lists",
                WORK >> 20
            ))
        })
    }

    fn pay_text(&self, text: &str) -> Result<(), Error> {
        self.pay(text.len() as u64)
    }

    /// Pays for one look at a value, not at what is in it.
    fn pay_surface(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.pay(1 + text.len() as u64 / 8),
            None => self.pay(NODE.saturating_mul(1 + value.len().unwrap_or(0) as u64)),
        }
    }

    /// Pays for a walk through all of a value; what holds itself, or is too deep, is refused.
    fn pay_all(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(refused(format!(
                "more than {DEPTH} lists or maps inside each other"
            )));
        }
        self.pay(NODE + value.as_str().map_or(0, str::len) as u64)?;
        let Ok(items) = nested(value) else {
            return Ok(());
        };
        for item in items {
            if value.kind() == ValueKind::Map {
                self.pay_all(&value.get_item(&item)?, depth + 1)?;
            }
            self.pay_all(&item, depth + 1)?;
        }
        Ok(())
    }

    /// The items of a list, or the keys of a map, each paid for.
    fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        value
            .try_iter()?
            .map(|item| self.pay(NODE).map(|()| item))
            .collect()
    }

    /// A list in place of a promise of one.
    fn settled(&self, value: Value) -> Result<Value, Error> {
        match value.kind() {
            ValueKind::Iterable => Ok(Value::from(self.items(&value)?)),
            // An error that travelled as a value.
            ValueKind::Invalid => Err(refused(value.to_string())),
            _ => Ok(value),
        }
    }

    fn list(&self, items: Vec<Value>) -> Result<Value, Error> {
        let list = Value::from(items);
        self.pay_all(&list, 0)?;
        Ok(list)
    }
}

fn nested(value: &Value) -> Result<minijinja::value::ValueIter, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.try_iter(),
        _ => Err(refused("no items")),
    }
}

// What the exchanged instructions call, and what templates call by name.

type Answer = Result<Value, Error>;

fn environment(budget: &Arc<Budget>) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(3 * DEPTH);
    add_operators(&mut environment, budget);
    add_functions(&mut environment, budget);
    add_filters(&mut environment, budget);
    add_tests(&mut environment, budget);
    let paid = budget.clone();
    environment.set_unknown_method_callback(move |state, value, name, arguments| {
        paid.settled(method(&paid, state, value, name, arguments)?)
    });
    let paid = budget.clone();
    environment.set_formatter(move |output, _, value| Ok(output.write_str(&paid.spelled(value)?)?));
    environment
}

fn add_operators(environment: &mut Environment<'static>, budget: &Arc<Budget>) {
    type Operator = fn(&Budget, Vec<Value>) -> Answer;
    let operators: [(&'static str, Operator); 16] = [
        ("held", |budget, mut values| {
            budget.pay_all(&values[0], 0).map(|()| values.remove(0))
        }),
        ("()", |budget, values| {
            Ok(Value::from(budget.items(&values[0])?))
        }),
        ("[]", |budget, values| budget.list(values)),
        ("{}", |budget, values| map(budget, &values)),
        ("[:]", |budget, values| slice(budget, &values)),
        ("[i]", |budget, values| item(budget, &values[0], &values[1])),
        ("+", |budget, values| add(budget, &values[0], &values[1])),
        ("*", |_, values| multiply(&values[0], &values[1])),
        ("~", |budget, values| {
            Ok(Value::from(
                budget.spelled(&values[0])? + &budget.spelled(&values[1])?,
            ))
        }),
        ("==", |budget, values| {
            Ok(Value::from(equal(budget, &values[0], &values[1])?))
        }),
        ("!=", |budget, values| {
            Ok(Value::from(!equal(budget, &values[0], &values[1])?))
        }),
        ("<", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_lt()))
        }),
        ("<=", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_le()))
        }),
        (">", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_gt()))
        }),
        (">=", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_ge()))
        }),
        ("∈", |budget, values| {
            Ok(Value::from(contains(budget, &values[1], &values[0])?))
        }),
    ];
    for (name, operator) in operators {
        let budget = budget.clone();
        environment.add_function(name, move |values: Rest<Value>| operator(&budget, values.0));
    }
}

fn map(budget: &Budget, values: &[Value]) -> Answer {
    let pairs = values
        .chunks_exact(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    let map: Value = pairs.collect();
    budget.pay_all(&map, 0).map(|()| map)
}

fn slice(budget: &Budget, values: &[Value]) -> Answer {
    let bound = |value: &Value| match value.as_i64() {
        Some(bound) => Ok(Some(bound)),
        None if value.is_none() => Ok(None),
        None => Err(refused("the bounds of a slice are whole numbers")),
    };
    let (start, stop, step) = (
        bound(&values[1])?,
        bound(&values[2])?,
        bound(&values[3])?.unwrap_or(1),
    );
    if let Some(text) = values[0].as_str() {
        budget.pay(4 * text.len() as u64)?;
        return Ok(Value::from(
            sliced(&text.chars().collect::<Vec<_>>(), start, stop, step)?
                .into_iter()
                .collect::<String>(),
        ));
    }
    Ok(Value::from(sliced(
        &budget.items(&values[0])?,
        start,
        stop,
        step,
    )?))
}

/// Python's `items[start:stop:step]`.
fn sliced<T: Clone>(
    items: &[T],
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> Result<Vec<T>, Error> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let within = |bound: i64, low: i64, high: i64| {
        (if bound < 0 {
            bound.saturating_add(length)
        } else {
            bound
        })
        .clamp(low, high)
    };
    let place = |index: i64| items.get(usize::try_from(index).ok()?).cloned();
    let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    match step {
        1.. => {
            let (start, stop) = (
                start.map_or(0, |s| within(s, 0, length)),
                stop.map_or(length, |s| within(s, 0, length)),
            );
            Ok((start..stop).step_by(stride).filter_map(place).collect())
        }
        0 => Err(refused("a slice cannot step by 0")),
        _ => {
            let start = start.map_or(length - 1, |s| within(s, -1, length - 1));
            let stop = stop.map_or(-1, |s| within(s, -1, length - 1));
            Ok((stop + 1..=start)
                .rev()
                .step_by(stride)
                .filter_map(place)
                .collect())
        }
    }
}

fn item(budget: &Budget, value: &Value, key: &Value) -> Answer {
    if value.is_undefined() {
        return Err(refused(format!(
            "nothing has no item {}",
            budget.spelled(key)?
        )));
    }
    budget.pay_surface(key)?;
    if matches!(value.kind(), ValueKind::String | ValueKind::Iterable) {
        if !key.is_integer() {
            return Ok(Value::UNDEFINED);
        }
        let all = slice(
            budget,
            &[value.clone(), key.clone(), Value::from(()), Value::from(())],
        )?;
        return Ok(first(&all).unwrap_or_default());
    }
    value.get_item(key)
}

fn first(value: &Value) -> Option<Value> {
    match value.as_str() {
        Some(text) => text
            .chars()
            .next()
            .map(|letter| Value::from(letter.to_string())),
        None => value.try_iter().ok()?.next(),
    }
}

fn add(budget: &Budget, left: &Value, right: &Value) -> Answer {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget.pay((left.len() + right.len()) as u64)?;
        return Ok(Value::from([left, right].concat()));
    }
    let listed = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if listed(left) && listed(right) {
        return Ok(Value::from(
            [budget.items(left)?, budget.items(right)?].concat(),
        ));
    }
    number("+", left, right, i64::checked_add, |left, right| {
        left + right
    })
}

fn multiply(left: &Value, right: &Value) -> Answer {
    number("*", left, right, i64::checked_mul, |left, right| {
        left * right
    })
}

fn number(
    sign: &str,
    left: &Value,
    right: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> Answer {
    let unfit = || {
        refused(format!(
            "cannot work out {} {sign} {}",
            left.kind(),
            right.kind()
        ))
    };
    if !left.is_number() || !right.is_number() {
        return Err(unfit());
    }
    if left.is_integer() && right.is_integer() {
        let (left, right) = left.as_i64().zip(right.as_i64()).ok_or_else(unfit)?;
        return whole(left, right).map(Value::from).ok_or_else(unfit);
    }
    Ok(Value::from(real(
        f64::try_from(left.clone())?,
        f64::try_from(right.clone())?,
    )))
}

fn equal(budget: &Budget, left: &Value, right: &Value) -> Result<bool, Error> {
    budget.pay_all(left, 0)?;
    budget.pay_all(right, 0)?;
    Ok(left == right)
}

fn order(budget: &Budget, left: &Value, right: &Value) -> Result<Ordering, Error> {
    budget.pay_all(left, 0)?;
    budget.pay_all(right, 0)?;
    let comparable = matches!(
        left.kind(),
        ValueKind::Number | ValueKind::String | ValueKind::Seq | ValueKind::Bool
    );
    if !comparable || left.kind() != right.kind() {
        return Err(refused(format!(
            "{} and {} have no order",
            left.kind(),
            right.kind()
        )));
    }
    Ok(left.cmp(right))
}

fn contains(budget: &Budget, whole: &Value, part: &Value) -> Result<bool, Error> {
    if let Some(text) = whole.as_str() {
        budget.pay_text(text)?;
        return Ok(text.contains(
            part.as_str()
                .ok_or_else(|| refused(format!("{} in string", part.kind())))?,
        ));
    }
    match whole.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => {
            budget.pay_surface(part)?;
            Ok(whole
                .as_object()
                .and_then(|map| map.get_value(part))
                .is_some())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in budget.items(whole)? {
                if equal(budget, &item, part)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        kind => Err(refused(format!("nothing is in a {kind}"))),
    }
}

fn add_functions(environment: &mut Environment<'static>, budget: &Arc<Budget>) {
    environment.add_function("raise_exception", |message: String| -> Answer {
        Err(refused(message))
    });
    environment.add_function("strftime_now", |format: &str| the_day(format));
    let builders = [
        ("range", Value::from_function(functions::range)),
        ("dict", Value::from_function(functions::dict)),
        ("namespace", Value::from_function(functions::namespace)),
    ];
    for (name, builder) in builders {
        let budget = budget.clone();
        environment.add_function(name, move |state: &State, values: Rest<Value>| {
            values
                .iter()
                .try_for_each(|value| budget.pay_all(value, 0))?;
            builder.call(state, &values)
        });
    }
}

/// `strftime_now`: always Friday, 26 July 2024, midnight (the day that Llama 3.2's own template falls back to), so that
/// a prompt is the same on every day.
fn the_day(format: &str) -> Result<String, Error> {
    let (mut told, mut letters) = (String::new(), format.chars());
    while let Some(letter) = letters.next() {
        if letter != '%' {
            told.push(letter);
            continue;
        }
        let code = letters
            .next()
            .filter(|letter| *letter != '-')
            .or_else(|| letters.next());
        told += match code {
            Some('d' | 'e') => "26",
            Some('m') if format.contains("%-m") => "7",
            Some('m') => "07",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('F') => "2024-07-26",
            Some('T' | 'X') => "00:00:00",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('%') => "%",
            other => {
                return Err(refused(format!(
                    "strftime_now does not know %{}",
                    other.unwrap_or(' ')
                )));
            }
        };
    }
    Ok(told)
}

fn add_filters(environment: &mut Environment<'static>, budget: &Arc<Budget>) {
    for (name, filter) in light_filters() {
        add_filter(environment, budget, name, move |budget, state, values| {
            values
                .iter()
                .try_for_each(|value| budget.pay_surface(value))?;
            filter.call(state, values)
        });
    }
    for (name, filter) in heavy_filters() {
        add_filter(environment, budget, name, move |budget, state, values| {
            for value in values {
                (0..8).try_for_each(|_| budget.pay_all(value, 0))?;
            }
            filter.call(state, values)
        });
    }
    add_filter(environment, budget, "string", |budget, _, values| {
        Ok(Value::from(budget.spelled(one(values)?)?))
    });
    add_filter(environment, budget, "safe", |_, _, values| {
        one(values).cloned()
    });
    add_filter(environment, budget, "tojson", |budget, _, values| {
        to_json(budget, values)
    });
    add_filter(environment, budget, "join", |budget, _, values| {
        let (items, by): (Value, Option<&str>) = from_args(values)?;
        joined(budget, &items, by.unwrap_or(""))
    });
    for (name, known_as) in [("trim", "strip"), ("replace", "replace")] {
        add_filter(environment, budget, name, move |budget, state, values| {
            let text = Value::from(budget.spelled(one(values)?)?);
            method(budget, state, &text, known_as, &values[1..])
        });
    }
}

fn add_filter(
    environment: &mut Environment<'static>,
    budget: &Arc<Budget>,
    name: &'static str,
    filter: impl Fn(&Budget, &State, &[Value]) -> Answer + Send + Sync + 'static,
) {
    let budget = budget.clone();
    environment.add_filter(name, move |state: &State, values: Rest<Value>| {
        budget.settled(filter(&budget, state, &values)?)
    });
}

fn one(values: &[Value]) -> Result<&Value, Error> {
    values
        .first()
        .ok_or_else(|| refused("a filter needs a value"))
}

/// Filters that look at each of their operands once.
fn light_filters() -> [(&'static str, Value); 25] {
    [
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("length", Value::from_function(length)),
        ("count", Value::from_function(length)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("default", Value::from_function(filters::default)),
        ("d", Value::from_function(filters::default)),
        ("round", Value::from_function(filters::round)),
        ("abs", Value::from_function(filters::abs)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("list", Value::from_function(filters::list)),
        ("bool", Value::from_function(filters::bool)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("e", Value::from_function(filters::escape)),
    ]
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        Ok(0)
    } else {
        filters::length(value)
    }
}

/// Filters that compare what is inside their operands.
fn heavy_filters() -> [(&'static str, Value); 6] {
    [
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sum", Value::from_function(filters::sum)),
    ]
}

fn add_tests(environment: &mut Environment<'static>, budget: &Arc<Budget>) {
    environment.add_test("undefined", checks::is_undefined);
    environment.add_test("defined", checks::is_defined);
    environment.add_test("none", checks::is_none);
    environment.add_test("boolean", checks::is_boolean);
    environment.add_test("odd", checks::is_odd);
    environment.add_test("even", checks::is_even);
    environment.add_test("number", checks::is_number);
    environment.add_test("integer", checks::is_integer);
    environment.add_test("float", checks::is_float);
    environment.add_test("string", checks::is_string);
    environment.add_test("mapping", checks::is_mapping);
    environment.add_test("true", checks::is_true);
    environment.add_test("false", checks::is_false);
    let iterable = |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        )
    };
    environment.add_test("iterable", iterable);
    environment.add_test("sequence", iterable);
    for name in ["eq", "equalto", "=="] {
        let budget = budget.clone();
        environment.add_test(name, move |left: &Value, right: &Value| {
            equal(&budget, left, right)
        });
    }
    for name in ["ne", "!="] {
        let budget = budget.clone();
        environment.add_test(name, move |left: &Value, right: &Value| {
            equal(&budget, left, right).map(|same| !same)
        });
    }
    let paid = budget.clone();
    environment.add_test("in", move |part: &Value, whole: &Value| {
        contains(&paid, whole, part)
    });
}

// Methods of texts, as Python has them. The rest (`upper`, `startswith`, `items`, `get`, …) is minijinja's own.

fn method(
    budget: &Budget,
    state: &State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Answer {
    budget.pay_surface(value)?;
    arguments
        .iter()
        .try_for_each(|argument| budget.pay_surface(argument))?;
    if let Some(text) = value.as_str() {
        budget.pay_text(text)?;
        if let Some(answer) = text_method(budget, text, name, arguments) {
            return answer;
        }
    }
    match name {
        "format" => Err(refused("`format` is not supported")),
        "count" => budget
            .pay_all(value, 0)
            .and_then(|()| pycompat::unknown_method_callback(state, value, name, arguments)),
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

fn text_method(budget: &Budget, text: &str, name: &str, arguments: &[Value]) -> Option<Answer> {
    Some(match name {
        "strip" | "lstrip" | "rstrip" => stripped(text, name, arguments),
        "split" | "rsplit" => split(budget, text, name, arguments),
        "splitlines" => split_lines(budget, text, arguments),
        "replace" => replace(budget, text, arguments),
        "join" => from_args(arguments).and_then(|(items,): (Value,)| joined(budget, &items, text)),
        "find" => from_args(arguments).map(|(part,): (&str,)| position(text, text.find(part))),
        "rfind" => from_args(arguments).map(|(part,): (&str,)| position(text, text.rfind(part))),
        "count" => {
            from_args(arguments).map(|(part,): (&str,)| Value::from(text.matches(part).count()))
        }
        "removeprefix" => from_args(arguments)
            .map(|(part,): (&str,)| Value::from(text.strip_prefix(part).unwrap_or(text))),
        "removesuffix" => from_args(arguments)
            .map(|(part,): (&str,)| Value::from(text.strip_suffix(part).unwrap_or(text))),
        "islower" => Ok(Value::from(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        )),
        "isupper" => Ok(Value::from(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        )),
        "isspace" => Ok(Value::from(!text.is_empty() && text.chars().all(blank))),
        "isdigit" | "isnumeric" | "isalpha" | "isalnum" if text.is_empty() => {
            Ok(Value::from(false))
        }
        _ => return None,
    })
}

/// What Python takes for a blank: Unicode's, and four old separators.
fn blank(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\x1c'..='\x1f')
}

fn stripped(text: &str, side: &str, arguments: &[Value]) -> Answer {
    let (letters,): (Option<&str>,) = from_args(arguments)?;
    let goes =
        |letter: char| letters.map_or_else(|| blank(letter), |letters| letters.contains(letter));
    Ok(Value::from(match side {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    }))
}

fn split(budget: &Budget, text: &str, side: &str, arguments: &[Value]) -> Answer {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX - 1);
    let Some(separator) = separator else {
        budget.pay(NODE * (1 + text.chars().filter(|letter| blank(*letter)).count() as u64))?;
        return if side == "split" {
            Ok(words(text, most))
        } else {
            Err(refused("rsplit needs a separator"))
        };
    };
    if separator.is_empty() {
        return Err(refused("an empty separator"));
    }
    budget.pay(NODE * (1 + text.matches(separator).count() as u64))?;
    let mut pieces: Vec<&str> = match side {
        "split" => text.splitn(most + 1, separator).collect(),
        _ => text.rsplitn(most + 1, separator).collect(),
    };
    if side == "rsplit" {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// `text.split(None, most)`.
fn words(text: &str, most: usize) -> Value {
    let (mut words, mut rest) = (Vec::new(), text.trim_start_matches(blank));
    while !rest.is_empty() {
        let end = if words.len() == most {
            rest.len()
        } else {
            rest.find(blank).unwrap_or(rest.len())
        };
        words.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(blank);
    }
    Value::from(words)
}

fn split_lines(budget: &Budget, text: &str, arguments: &[Value]) -> Answer {
    let () = from_args(arguments)?;
    let ends = |letter: char| matches!(letter, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    budget.pay(NODE * (1 + text.chars().filter(|letter| ends(*letter)).count() as u64))?;
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix(ends).unwrap_or(&text);
    Ok(if text.is_empty() {
        Value::from(Vec::<Value>::new())
    } else {
        text.split(ends).map(Value::from).collect()
    })
}

fn replace(budget: &Budget, text: &str, arguments: &[Value]) -> Answer {
    let (old, new, most): (&str, &str, Option<i64>) = from_args(arguments)?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let places = text.matches(old).count().min(most);
    budget.pay(
        (text.len() as u64).saturating_add((places as u64).saturating_mul(new.len() as u64)),
    )?;
    Ok(Value::from(text.replacen(old, new, most)))
}

fn joined(budget: &Budget, items: &Value, by: &str) -> Answer {
    let mut ink = Ink {
        text: String::new(),
        budget,
    };
    for (index, item) in budget.items(items)?.iter().enumerate() {
        ink.put(if index == 0 { "" } else { by })?;
        ink.spell(item)?;
    }
    Ok(Value::from(ink.text))
}

/// A place in letters, from one in bytes.
fn position(text: &str, found: Option<usize>) -> Value {
    found.map_or(Value::from(-1), |bytes| {
        Value::from(text[..bytes].chars().count())
    })
}

// Spelling, as Python's `str`, `repr` and `json.dumps`.

impl Budget {
    fn spelled(&self, value: &Value) -> Result<String, Error> {
        let mut ink = Ink {
            text: String::new(),
            budget: self,
        };
        ink.spell(value)?;
        Ok(ink.text)
    }
}

/// A text that pays as it grows.
struct Ink<'b> {
    text: String,
    budget: &'b Budget,
}

impl Ink<'_> {
    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.budget.pay_text(text)?;
        self.text.push_str(text);
        Ok(())
    }

    fn spell(&mut self, value: &Value) -> Result<(), Error> {
        match (value.as_str(), value.kind()) {
            (Some(text), _) => self.put(text),
            (None, ValueKind::Undefined) => Ok(()),
            _ => self.spell_inside(value, 0),
        }
    }

    fn spell_inside(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.enter(depth)?;
        match value.kind() {
            ValueKind::String => self.put(&quoted(value.as_str().unwrap_or_default())),
            ValueKind::Undefined => self.put("Undefined"),
            ValueKind::None => self.put("None"),
            ValueKind::Bool => self.put(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.put(&value.to_string()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.put_items(value, ["[", ", ", "]"], |ink, item| {
                    ink.spell_inside(&item, depth + 1)
                })
            }
            ValueKind::Map => self.put_items(value, ["{", ", ", "}"], |ink, key| {
                ink.spell_inside(&key, depth + 1)?;
                ink.put(": ")?;
                ink.spell_inside(&value.get_item(&key)?, depth + 1)
            }),
            kind => Err(refused(format!("a {kind} has no spelling"))),
        }
    }

    fn enter(&self, depth: usize) -> Result<(), Error> {
        self.budget.pay(NODE)?;
        if depth > DEPTH {
            Err(refused(format!(
                "more than {DEPTH} lists or maps inside each other"
            )))
        } else {
            Ok(())
        }
    }

    fn put_items(
        &mut self,
        value: &Value,
        [open, between, close]: [&str; 3],
        mut put: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.put(open)?;
        for (index, item) in self.budget.items(value)?.into_iter().enumerate() {
            self.put(if index == 0 { "" } else { between })?;
            put(self, item)?;
        }
        self.put(close)
    }

    fn json(&mut self, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
        self.enter(depth)?;
        let line = |depth| {
            indent.map_or(String::new(), |indent| {
                format!("\n{}", " ".repeat(indent * depth))
            })
        };
        let (open, close) = (line(depth + 1), line(depth));
        let comma = if indent.is_some() {
            format!(",{open}")
        } else {
            ", ".to_string()
        };
        let empty = value.len() == Some(0);
        let frame = |brackets: [&str; 2]| match empty {
            true => brackets.map(str::to_string),
            false => [
                format!("{}{open}", brackets[0]),
                format!("{close}{}", brackets[1]),
            ],
        };
        match value.kind() {
            ValueKind::None => self.put("null"),
            ValueKind::Bool | ValueKind::Number => self.put(&value.to_string()),
            ValueKind::String => self.put(&escaped(value.as_str().unwrap_or_default())),
            ValueKind::Seq | ValueKind::Iterable => {
                let [open, close] = frame(["[", "]"]);
                self.put_items(value, [&open, &comma, &close], |ink, item| {
                    ink.json(&item, indent, depth + 1)
                })
            }
            ValueKind::Map => {
                let [open, close] = frame(["{", "}"]);
                self.put_items(value, [&open, &comma, &close], |ink, key| {
                    let name = key
                        .as_str()
                        .ok_or_else(|| refused("a key of JSON is a text"))?;
                    ink.put(&escaped(name))?;
                    ink.put(": ")?;
                    ink.json(&value.get_item(&key)?, indent, depth + 1)
                })
            }
            kind => Err(refused(format!("{kind} cannot be JSON"))),
        }
    }
}

fn to_json(budget: &Budget, values: &[Value]) -> Answer {
    let (value, options): (Value, Kwargs) = from_args(values)?;
    let indent = options.get::<Option<usize>>("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT) || ascii == Some(true) {
        return Err(refused(format!(
            "tojson indents by at most {INDENT}, and keeps letters as they are"
        )));
    }
    let mut ink = Ink {
        text: String::new(),
        budget,
    };
    ink.json(&value, indent, 0)?;
    Ok(Value::from(ink.text))
}

/// `json.dumps(text, ensure_ascii=False)`.
fn escaped(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `repr(text)`, but for letters that Python thinks unprintable.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ' ' => quoted.push(' '),
            letter if letter.is_control() || letter.is_whitespace() => {
                let number = u32::from(letter);
                quoted += &if number < 256 {
                    format!("\\x{number:02x}")
                } else {
                    format!("\\u{number:04x}")
                };
            }
            letter if letter == quote || letter == '\\' => quoted.extend(['\\', letter]),
            letter => quoted.push(letter),
        }
    }
    quoted.push(quote);
    quoted
}
