//! What somebody may have meant by a name that does not exist.

/// The known name that is fewest edits away (letters put in, taken out or changed), where that is at most half of its
/// letters.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |known: &&str| edits(name, known) <= known.chars().count() / 2;
    known.into_iter().filter(near).min_by_key(|known| edits(name, known))
}

/// Levenshtein's distance, row by row: `row[j]` is that of the letters of `a` so far and the first j letters of `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in
            [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("qwen2", "qwen3", 1), ("ab", "ba", 2)]
        {
            assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
        }
    }

    #[test]
    fn what_is_far_from_everything_has_no_neighbour() {
        let known = ["llama", "mistral", "qwen2", "qwen3"];
        assert_eq!(nearest("mistrall", known), Some("mistral"));
        assert_eq!(nearest("Llama", known), Some("llama"));
        assert_eq!(nearest("qwen", known), Some("qwen2"));
        assert_eq!(nearest("bloom", known), None);
        assert_eq!(nearest("", known), None);
    }
}
