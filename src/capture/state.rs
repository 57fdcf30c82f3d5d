//! The protection cycle: one enum, one transition table.

use serde::{Deserialize, Serialize};

/// The state of protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first image is being read.
    Uploading,
    /// Changes come in and are made durable.
    Streaming,
    /// Nothing comes in now, and nothing is lost: the slot keeps what is missing.
    Blackout,
    /// A new slot and image are being made after a loss.
    Resyncing,
    /// The slot no longer holds what is missing: there will be a gap.
    Lost,
}

impl State {
    /// Until a new epoch has begun.
    pub fn is_lost(self) -> bool {
        matches!(self, State::Lost | State::Resyncing)
    }
}

/// An event that leads from one state to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A capture begins, and looks anew at what an earlier one left.
    Started,
    /// The image is complete and valid.
    ImageDone,
    /// The stream is open at the journal's frontier.
    StreamOpened,
    /// The connection, the server or the disk failed, or capture stopped.
    Interrupted,
    /// The source cannot give what comes after the journal's frontier.
    ContinuityLost,
    /// A new epoch is begun.
    ResyncBegun,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Uploading, State::Streaming, State::Blackout, State::Resyncing, State::Lost];

    /// The state after `event`; `None` if the event cannot happen here.
    pub fn after(self, event: Event) -> Option<State> {
        use Event::{ContinuityLost, ImageDone, Interrupted, ResyncBegun, Started, StreamOpened};
        use State::{Blackout, Lost, Resyncing, Streaming, Uploading};
        match (self, event) {
            (_, Started) => Some(Blackout),
            // The image is there; until the stream is open, nothing comes in.
            (Uploading | Resyncing, ImageDone) => Some(Blackout),
            (Blackout, StreamOpened) => Some(Streaming),
            (Streaming | Blackout, Interrupted) => Some(Blackout),
            // An image that was not finished counts for nothing.
            (Uploading, Interrupted) => Some(Uploading),
            (Resyncing | Lost, Interrupted) => Some(Lost),
            (Streaming | Blackout | Resyncing, ContinuityLost) => Some(Lost),
            (Lost, ResyncBegun) => Some(Resyncing),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_the_table() {
        use Event::*;
        use State::*;
        let events = [Started, ImageDone, StreamOpened, Interrupted, ContinuityLost, ResyncBegun];
        let anew = Some(Blackout);
        let table: [(State, [Option<State>; 6]); 5] = [
            (Uploading, [anew, Some(Blackout), None, Some(Uploading), None, None]),
            (Streaming, [anew, None, None, Some(Blackout), Some(Lost), None]),
            (Blackout, [anew, None, Some(Streaming), Some(Blackout), Some(Lost), None]),
            (Resyncing, [anew, Some(Blackout), None, Some(Lost), Some(Lost), None]),
            (Lost, [anew, None, None, Some(Lost), None, Some(Resyncing)]),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        for (state, row) in table {
            for (event, expected) in events.into_iter().zip(row) {
                assert_eq!(state.after(event), expected, "{state:?} after {event:?}");
            }
        }
    }

    #[test]
    fn no_way_leads_from_lost_to_streaming_without_an_image() {
        assert_eq!(State::Lost.after(Event::StreamOpened), None);
        assert_eq!(State::Resyncing.after(Event::StreamOpened), None);
    }
}
