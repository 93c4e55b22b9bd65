//! What is said of a name that does not exist: the names that do, and the nearest; and numbers with their nouns.

/// A number with its noun, as in "1 document" and "2 documents".
pub fn counted(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// One sentence part: "there is no such WHAT; there are A, B and C; the nearest is B".
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let list = known.join(", ");
    match nearest(name, known) {
        Some(near) => format!("there is no such {what}; there are {list}; the nearest is {near}"),
        None => format!("there is no such {what}; there are {list}"),
    }
}

/// The known name with the fewest edits, where half of it or more would stay.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let (edits, near) =
        known.iter().map(|&k| (edits(&name, &k.to_lowercase()), k)).min_by_key(|&(edits, _)| edits)?;
    (2 * edits <= near.chars().count()).then_some(near)
}

/// Levenshtein's distance: insertions, deletions and replacements that make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &cb) in b.iter().enumerate() {
            let kept = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = kept.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_no_s() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "document")), ["0 documents", "1 document", "2 documents"]);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in
            [("", "", 0), ("yarn", "yarn", 0), ("yarm", "yarn", 1), ("", "abc", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_is_named_where_it_is_near() {
        let known = ["none", "linear", "yarn"];
        assert_eq!(nearest("Yarm", &known), Some("yarn"));
        assert_eq!(nearest("lineal", &known), Some("linear"));
        assert_eq!(nearest("sinusoidal", &known), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(
            unknown("scaling", "yarm", &known),
            "there is no such scaling; there are none, linear, yarn; the nearest is yarn"
        );
    }
}
