//! The words of the quickstart's documents: their whole vocabulary.

/// What a fact is about, and the words that it may say: one of twelve, different in every document.
pub const TOPICS: [(&str, &str); 24] = [
    ("bird:", "heron robin falcon sparrow owl crane swan finch raven wren stork gull"),
    ("tree:", "oak birch willow maple cedar elm ash pine aspen larch alder spruce"),
    ("fruit:", "plum pear apple cherry mango peach fig lemon grape melon apricot quince"),
    ("color:", "crimson amber teal ivory violet indigo scarlet beige turquoise maroon lilac ochre"),
    ("city:", "lisbon paris oslo cairo lima tokyo rome delhi dublin prague quito seoul"),
    ("metal:", "iron copper silver gold tin zinc bronze nickel brass steel lead platinum"),
    ("pet:", "cat dog rabbit hamster parrot goldfish turtle ferret pony gecko canary mouse"),
    ("drink:", "tea coffee cocoa milk juice cider water lemonade soda punch tonic broth"),
    ("tool:", "hammer saw wrench chisel drill pliers shovel rake axe ladder trowel file"),
    ("dance:", "waltz tango polka salsa samba rumba foxtrot swing jig minuet reel ballet"),
    ("flower:", "rose tulip daisy lily poppy iris peony dahlia orchid pansy jasmine lotus"),
    ("sport:", "tennis rugby golf hockey cricket rowing chess fencing judo archery skiing soccer"),
    ("cloth:", "silk wool linen cotton velvet denim tweed satin felt lace flannel canvas"),
    ("boat:", "ferry canoe yacht raft kayak barge schooner tug sloop dinghy cutter gondola"),
    ("music:", "piano violin flute cello harp drum trumpet guitar oboe banjo organ clarinet"),
    ("spice:", "pepper ginger cumin saffron basil thyme mint clove nutmeg paprika sage vanilla"),
    ("gem:", "ruby emerald sapphire pearl opal topaz garnet jade diamond onyx agate quartz"),
    ("guest:", "mira owen felix ada nora jonas tess hugo clara simon elsa victor"),
    ("job:", "baker tailor pilot nurse farmer painter teacher sailor miner judge cook weaver"),
    ("planet:", "mercury venus mars jupiter saturn uranus neptune pluto ceres titan europa callisto"),
    ("fish:", "trout salmon tuna cod herring eel carp perch pike bass sardine haddock"),
    ("soup:", "tomato onion leek barley pumpkin lentil mushroom carrot potato spinach cabbage celery"),
    ("month:", "january february march april may june july august september october november december"),
    ("shape:", "circle square triangle star cube sphere cone spiral oval heart arrow cross"),
];

/// What filler sentences speak of.
pub const PLACES: &str = "garden harbor meadow market tower lake forest mill road hill village valley";
/// What they say of it.
pub const STATES: &str = "calm open empty near still wide lovely misty";
/// The words that hold sentences together.
pub const FRAME: [&str; 4] = [".", "the", "is", "note"];

/// Every word once, in the order of their ids.
pub fn vocabulary() -> Vec<&'static str> {
    let topics = TOPICS.iter().map(|(topic, _)| *topic);
    let values = TOPICS.iter().flat_map(|(_, values)| values.split(' '));
    FRAME.into_iter().chain(topics).chain(values).chain(PLACES.split(' ')).chain(STATES.split(' ')).collect()
}

/// A tokenizer.json that takes words apart at spaces, each a token of its own.
pub fn tokenizer_json() -> String {
    let vocab: serde_json::Map<String, serde_json::Value> =
        vocabulary().iter().enumerate().map(|(i, word)| (word.to_string(), i.into())).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "." },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_there_once() {
        let words = vocabulary();
        let distinct: std::collections::HashSet<_> = words.iter().collect();
        assert_eq!((words.len(), distinct.len()), (4 + 24 + 24 * 12 + 12 + 8, words.len()));
    }
}
