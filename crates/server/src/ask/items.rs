//! An answer as items, each of one kind, for APIs that say where one begins and ends.
use super::{Call, Choice, Delta};

/// A stretch of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Reasoning(String),
    Content(String),
    Call(Call),
}

/// What a delta does to the items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// The next item begins; it is empty but for a call's name.
    Open(Item),
    /// Text for the open item.
    Add(String),
    /// The open item is whole.
    Close(Item),
}

/// Makes items of deltas.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items {
    open: Option<Item>,
}

impl Items {
    pub(crate) fn take(&mut self, delta: Delta) -> Vec<Move> {
        let (next, text) = match delta {
            Delta::Content(text) => (Item::Content(String::new()), text),
            Delta::Reasoning(text) => (Item::Reasoning(String::new()), text),
            Delta::ToolCall { name, .. } => {
                let call = Item::Call(Call { name, arguments: String::new() });
                return self.close().into_iter().chain([self.begin(call)]).collect();
            }
            Delta::ToolArguments { piece, .. } => (Item::Call(Call::default()), piece),
        };
        let mut moves = Vec::new();
        let same = |open: &Item| std::mem::discriminant(open) == std::mem::discriminant(&next);
        if !self.open.as_ref().is_some_and(same) {
            moves.extend(self.close());
            moves.push(self.begin(next));
        }
        match &mut self.open {
            Some(Item::Content(to) | Item::Reasoning(to)) => to.push_str(&text),
            Some(Item::Call(call)) => call.arguments.push_str(&text),
            None => {}
        }
        moves.push(Move::Add(text));
        moves
    }

    /// The end of the answer, or of the open item.
    pub(crate) fn close(&mut self) -> Option<Move> {
        self.open.take().map(Move::Close)
    }

    fn begin(&mut self, item: Item) -> Move {
        self.open = Some(item.clone());
        Move::Open(item)
    }
}

impl From<Choice> for Vec<Item> {
    fn from(choice: Choice) -> Self {
        let texts = [Item::Reasoning(choice.reasoning), Item::Content(choice.content)];
        let is_there =
            |item: &Item| !matches!(item, Item::Reasoning(t) | Item::Content(t) if t.is_empty());
        let calls = choice.calls.into_iter().map(Item::Call);
        texts.into_iter().filter(is_there).chain(calls).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_open_and_close_where_the_kind_changes() {
        let text = str::to_owned;
        let call = |name: &str, arguments: &str| {
            Item::Call(Call { name: text(name), arguments: text(arguments) })
        };
        let mut items = Items::default();
        let deltas = [
            Delta::Reasoning(text("hm")),
            Delta::Reasoning(text("m")),
            Delta::Content(text("Yes")),
            Delta::ToolCall { index: 0, name: text("f") },
            Delta::ToolArguments { index: 0, piece: text("{}") },
            Delta::ToolCall { index: 1, name: text("g") },
        ];
        let mut moves: Vec<Move> = deltas.into_iter().flat_map(|delta| items.take(delta)).collect();
        moves.extend(items.close());
        assert_eq!(items.close(), None);
        let expected = [
            Move::Open(Item::Reasoning(String::new())),
            Move::Add(text("hm")),
            Move::Add(text("m")),
            Move::Close(Item::Reasoning(text("hmm"))),
            Move::Open(Item::Content(String::new())),
            Move::Add(text("Yes")),
            Move::Close(Item::Content(text("Yes"))),
            Move::Open(call("f", "")),
            Move::Add(text("{}")),
            Move::Close(call("f", "{}")),
            Move::Open(call("g", "")),
            Move::Close(call("g", "")),
        ];
        assert_eq!(moves, expected);
    }
}
