//! From words to functions (PTX ISA 9.0, sections 4, 5, 11).

use super::lexer::{Token, tokens};
use super::scope::Scope;
use super::{Function, Instruction, Operand, PtxError, Space, Text, Variable};

/// Bounds that no compiler comes near and that keep a damaged text from taking all memory, or the whole stack.
const MOST_ALIGNMENT: u64 = 1 << 16;
const MOST_BYTES: u64 = 1 << 28;
const MOST_REGISTERS: u64 = 1 << 16;
const MOST_DEPTH: usize = 64;

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    /// Of braces and brackets around what is read.
    depth: usize,
}

type Result<T> = std::result::Result<T, PtxError>;

/// Reads a module.
pub fn parse(text: &str) -> Result<Text> {
    let mut p = Parser { tokens: tokens(text), at: 0, depth: 0 };
    let mut out = Text::default();
    while p.at < p.tokens.len() {
        p.top(&mut out)?;
    }
    Ok(out)
}

/// Bytes of a type such as `.b32`.
pub(crate) fn type_bytes(name: &str) -> Option<u32> {
    Some(match name.trim_start_matches('.') {
        "pred" | "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

fn number(word: &str) -> Option<u64> {
    let word = word.trim_end_matches(['U', 'u']);
    if let Some(hex) = word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(bits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
        return u32::from_str_radix(bits, 16).ok().map(u64::from);
    }
    if let Some(bits) = word.strip_prefix("0d").or(word.strip_prefix("0D")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    word.parse().ok()
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(0, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(PtxError { line: self.line(), message: message.into() })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn word(&mut self) -> Result<String> {
        match self.peek().cloned() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            other => self.error(format!("a word is expected, not {other:?}")),
        }
    }

    fn sign(&mut self, c: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(c));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.sign(c) { Ok(()) } else { self.error(format!("'{c}' is expected, not {:?}", self.peek())) }
    }

    /// Past the end of this line, which some directives have for an end.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.peek().cloned() {
            self.at += 1;
            match token {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') => depth -= 1,
                _ => {}
            }
            if depth == 0 && token == Token::Sign('}') {
                return;
            }
        }
    }

    fn top(&mut self, out: &mut Text) -> Result<()> {
        match self.word()?.as_str() {
            ".version" | ".target" | ".address_size" | ".file" => {
                self.at -= 1;
                self.skip_line();
            }
            ".section" => self.skip_braces(),
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".global" => out.variables.extend(self.variable(Space::Global)?),
            ".const" => out.variables.extend(self.variable(Space::Const)?),
            ".shared" => out.variables.extend(self.variable(Space::Shared)?),
            ".entry" => out.functions.push(self.function(true)?),
            ".func" => out.functions.push(self.function(false)?),
            other => return self.error(format!("{other} is not known at the top of a module")),
        }
        Ok(())
    }

    /// `.align 16 .b8 name[64] = {..}, other;`
    fn variable(&mut self, space: Space) -> Result<Vec<Variable>> {
        let mut out = Vec::new();
        let (mut align, mut element) = (0, 0);
        loop {
            let word = self.word()?;
            if word == ".align" {
                align = match number(&self.word()?) {
                    Some(n) if n.is_power_of_two() && n <= MOST_ALIGNMENT => n as u32,
                    _ => {
                        return self
                            .error(format!("an alignment that is no power of two up to {MOST_ALIGNMENT}"));
                    }
                };
            } else if let Some(bytes) = type_bytes(&word).filter(|_| word.starts_with('.')) {
                element = bytes;
            } else if word.starts_with('.') {
                // .v2 and .v4 are vectors of the type that follows; .ptr, .global and the like describe a pointer
                if word == ".ptr" || type_bytes(&word).is_none() {
                    continue;
                }
            } else {
                out.push(self.named(space, word, element, align.max(element))?);
                if space == Space::Param || !self.sign(',') {
                    break;
                }
            }
        }
        if space != Space::Param {
            self.expect(';')?;
        }
        Ok(out)
    }

    fn named(&mut self, space: Space, name: String, element: u32, align: u32) -> Result<Variable> {
        let mut bytes = u64::from(element);
        while self.sign('[') {
            if self.sign(']') {
                bytes = 0;
            } else {
                bytes = bytes.saturating_mul(number(&self.word()?).unwrap_or(0));
                self.expect(']')?;
            }
        }
        if bytes > MOST_BYTES {
            return self.error(format!("{name} takes {bytes} bytes, and at most {MOST_BYTES} are possible"));
        }
        let mut out =
            Variable { name, space, bytes: bytes as u32, align, content: Vec::new(), links: Vec::new() };
        if self.sign('=') {
            self.initial(&mut out, element)?;
        }
        Ok(out)
    }

    /// `{1, -2, name, generic(name)+4}` or one of these; lists may be in lists.
    fn initial(&mut self, out: &mut Variable, element: u32) -> Result<()> {
        if self.sign('{') {
            return self.within(|parser| {
                while !parser.sign('}') {
                    parser.initial(out, element)?;
                    parser.sign(',');
                }
                Ok(())
            });
        }
        let negative = self.sign('-');
        let word = self.word()?;
        let value = match number(&word) {
            Some(value) if negative => value.wrapping_neg(),
            Some(value) => value,
            None if element == 8 && !negative => {
                let link = self.link(word)?;
                out.links.push((out.content.len() as u32, link.0, link.1));
                0
            }
            None => return self.error(format!("initial value {word}")),
        };
        match value.to_le_bytes().get(..element as usize) {
            Some(bytes) => out.content.extend(bytes),
            None => return self.error("an initial value of more than 8 bytes"),
        }
        Ok(())
    }

    fn link(&mut self, word: String) -> Result<(String, i64)> {
        let name = if word == "generic" && self.sign('(') {
            let name = self.word()?;
            self.expect(')')?;
            name
        } else {
            word
        };
        if !self.sign('+') {
            return Ok((name, 0));
        }
        let word = self.word()?;
        match number(&word) {
            Some(offset) => Ok((name, offset as i64)),
            None => self.error(format!("offset {word}")),
        }
    }

    fn params(&mut self) -> Result<Vec<Variable>> {
        let mut out = Vec::new();
        if !self.sign('(') {
            return Ok(out);
        }
        while !self.sign(')') {
            match self.word()?.as_str() {
                ".param" => out.extend(self.variable(Space::Param)?),
                other => return self.error(format!("{other} among parameters")),
            }
            self.sign(',');
        }
        Ok(out)
    }

    fn function(&mut self, entry: bool) -> Result<Function> {
        let mut f = Function { entry, ..Function::default() };
        if !entry && self.peek() == Some(&Token::Sign('(')) {
            f.returns = self.params()?;
        }
        f.name = self.word()?;
        f.params = self.params()?;
        while !self.sign('{') {
            if self.sign(';') {
                return Ok(f);
            }
            let directive = self.word()?;
            let mut product = 1u32;
            while let Some(Token::Word(w)) = self.peek() {
                let Some(n) = number(w) else { break };
                product = product.saturating_mul(n as u32);
                self.at += 1;
                self.sign(',');
            }
            if matches!(directive.as_str(), ".maxntid" | ".reqntid") {
                f.max_threads = Some(product);
            }
        }
        self.body(&mut f)?;
        Ok(f)
    }

    fn body(&mut self, f: &mut Function) -> Result<()> {
        f.defined = true;
        let (mut scopes, mut source) = (vec![Scope::default()], 0);
        while !scopes.is_empty() {
            if self.sign('{') {
                if scopes.len() == MOST_DEPTH {
                    return self.error(format!("blocks are nested more than {MOST_DEPTH} deep"));
                }
                scopes.push(Scope::of(f));
            } else if self.sign('}') {
                let scope = scopes.pop();
                if let Some(scope) = scope.filter(|_| !scopes.is_empty()) {
                    scope.close(f);
                }
            } else if self.sign('@') {
                let negated = self.sign('!');
                let guard = Some((self.word()?, negated));
                let op = self.word()?;
                self.instruction(f, guard, op, source)?;
            } else {
                let word = self.word()?;
                self.statement(f, word, &mut source)?;
            }
        }
        Ok(())
    }

    fn statement(&mut self, f: &mut Function, word: String, source: &mut u32) -> Result<()> {
        match word.as_str() {
            ".loc" => {
                if let Some((Token::Word(line), _)) = self.tokens.get(self.at + 1) {
                    *source = line.parse().unwrap_or(0);
                }
                self.at -= 1;
                self.skip_line();
            }
            ".pragma" => {
                self.at += 1;
                self.expect(';')?;
            }
            ".reg" => self.registers(f)?,
            ".shared" => f.variables.extend(self.variable(Space::Shared)?),
            ".local" => f.variables.extend(self.variable(Space::Local)?),
            ".param" => {
                f.variables.extend(self.variable(Space::Param)?);
                self.expect(';')?;
            }
            _ if self.sign(':') => match self.peek() {
                Some(Token::Word(w)) if w == ".branchtargets" => f.tables.push((word, self.list()?)),
                // what may be called is told by the call
                Some(Token::Word(w)) if w == ".callprototype" || w == ".calltargets" => {
                    while !self.sign(';') {
                        if self.peek().is_none() {
                            return self.error("the text ends in a prototype");
                        }
                        self.at += 1;
                    }
                }
                _ => f.labels.push((word, f.body.len())),
            },
            _ => self.instruction(f, None, word, *source)?,
        }
        Ok(())
    }

    /// `.branchtargets L1, L2;`
    fn list(&mut self) -> Result<Vec<String>> {
        self.at += 1;
        let mut out = Vec::new();
        while !self.sign(';') {
            out.push(self.word()?);
            self.sign(',');
        }
        Ok(out)
    }

    /// `.b32 %r<5>;` or `.pred p, q;`
    fn registers(&mut self, f: &mut Function) -> Result<()> {
        let kind = self.word()?;
        loop {
            let name = self.word()?;
            if self.sign('<') {
                let count = number(&self.word()?).unwrap_or(0);
                self.expect('>')?;
                if count.saturating_add(f.registers.len() as u64) > MOST_REGISTERS {
                    return self.error(format!("more than {MOST_REGISTERS} registers"));
                }
                f.registers.extend((0..count).map(|i| (format!("{name}{i}"), kind.clone())));
            } else {
                f.registers.push((name, kind.clone()));
            }
            if !self.sign(',') {
                return self.expect(';');
            }
        }
    }

    fn instruction(
        &mut self, f: &mut Function, guard: Option<(String, bool)>, op: String, source: u32,
    ) -> Result<()> {
        let line = self.line();
        let operands = self.operands(';')?;
        f.body.push(Instruction { line, source, guard, op, operands });
        Ok(())
    }

    /// Operands up to a closing sign.
    fn operands(&mut self, close: char) -> Result<Vec<Operand>> {
        let mut parts = Vec::new();
        while !self.sign(close) {
            parts.push(self.operand()?);
            self.sign(',');
        }
        Ok(parts)
    }

    /// One level deeper: what is nested without end would end the stack.
    fn within<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MOST_DEPTH {
            return self.error(format!("nested more than {MOST_DEPTH} deep"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn operand(&mut self) -> Result<Operand> {
        self.within(Self::operand_within)
    }

    fn operand_within(&mut self) -> Result<Operand> {
        if self.sign('{') {
            return self.operands('}').map(Operand::Vector);
        }
        if self.sign('(') {
            return self.operands(')').map(Operand::List);
        }
        if self.sign('[') {
            let base = self.operand()?;
            let mut offset = 0i64;
            if self.sign('+') {
                let negative = self.sign('-');
                let word = self.word()?;
                let Some(value) = number(&word) else { return self.error(format!("offset {word}")) };
                offset = if negative { (value as i64).wrapping_neg() } else { value as i64 };
            }
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        if self.sign('!') {
            return Ok(Operand::Negated(Box::new(self.operand()?)));
        }
        if self.sign('-') {
            let word = self.word()?;
            return match number(&word) {
                Some(value) => Ok(Operand::Number(value.wrapping_neg())),
                None => self.error(format!("number -{word}")),
            };
        }
        let word = self.word()?;
        let first = if word == "_" {
            Operand::Nothing
        } else if word.starts_with('%') {
            Operand::Register(word)
        } else if word.starts_with(|c: char| c.is_ascii_digit()) {
            match number(&word) {
                Some(value) => Operand::Number(value),
                None => return self.error(format!("number {word}")),
            }
        } else {
            Operand::Symbol(word)
        };
        if self.sign('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.operand()?)));
        }
        Ok(first)
    }
}
