//! A self-contained HTML page.

use super::Plot;
use crate::error::Result;
use std::fmt::Write;

/// Text and plots, one below the other.
#[derive(Debug)]
pub struct Page {
    html: String,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:980px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}svg{max-width:100%;height:auto}\
table{border-collapse:collapse;font-size:.9rem;display:block;overflow-x:auto}th,td{padding:.3rem .6rem;text-align:right;\
border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #888}\
pre{background:#f5f5f5;padding:.8rem;overflow-x:auto;font-size:.8rem}li.no{color:#a00}.told{background:#cfe8d5}\
.wrong{background:#f3c6c6}.words{background:#fafafa;padding:.8rem}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Page {
    pub fn new(title: &str) -> Page {
        let title = escape(title);
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n\
             <body>\n<h1>{title}</h1>\n"
        );
        Page { html }
    }

    fn element(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.html, "<{tag}>{}</{tag}>", escape(text));
    }

    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    pub fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    pub fn code(&mut self, text: &str) {
        self.element("pre", text);
    }

    /// Text that is shown when its title is asked for.
    pub fn folded(&mut self, title: &str, code: &str) {
        let _ = writeln!(
            self.html,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(title),
            escape(code)
        );
    }

    /// Sentences, each with whether it holds.
    pub fn list<'a>(&mut self, items: impl Iterator<Item = (&'a str, bool)>) {
        self.html.push_str("<ul>\n");
        for (text, holds) in items {
            let (class, mark) = if holds { ("yes", "holds") } else { ("no", "does not hold") };
            let _ = writeln!(self.html, "<li class=\"{class}\">{} ({mark})</li>", escape(text));
        }
        self.html.push_str("</ul>\n");
    }

    pub fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
            cells.map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect()
        };
        let _ = writeln!(self.html, "<table>\n<tr>{}</tr>", cells("th", &mut headings.iter().copied()));
        for row in rows {
            let _ = writeln!(self.html, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)));
        }
        self.html.push_str("</table>\n");
    }

    pub fn plot(&mut self, plot: &Plot) -> Result<()> {
        self.svg(&plot.to_svg()?);
        Ok(())
    }

    /// A drawing.
    pub fn svg(&mut self, svg: &str) {
        self.html.push_str(svg);
        self.html.push('\n');
    }

    /// Words, some marked right or wrong.
    pub fn marked_text<'a>(&mut self, words: impl Iterator<Item = (&'a str, Option<bool>)>) {
        self.html.push_str("<p class=\"words\">");
        for (word, mark) in words {
            let word = escape(word);
            let _ = match mark {
                Some(true) => write!(self.html, "<span class=\"told\">{word}</span> "),
                Some(false) => write!(self.html, "<span class=\"wrong\">{word}</span> "),
                None => write!(self.html, "{word} "),
            };
        }
        self.html.push_str("</p>\n");
    }

    /// The page's text.
    pub fn finish(mut self) -> String {
        self.html.push_str("</body></html>\n");
        self.html
    }
}
