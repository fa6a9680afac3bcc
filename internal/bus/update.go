package bus

import (
	"encoding/json"

	"weft/internal/stream"
)

// TopicUpdates is the topic of Update messages.
const TopicUpdates = "updates"

// Update says after a commit that a stream moved, and whom it may concern.
type Update struct {
	Stream  stream.Name `json:"s"`
	Pos     int64       `json:"p"` // the stream is at least here, and what the update is about is not beyond
	Rooms   []string    `json:"r,omitempty"`
	Users   []string    `json:"u,omitempty"`
	Servers []string    `json:"d,omitempty"` // destinations that have something to fetch
	Lot     []byte      `json:"l,omitempty"` // of events: those that the update is about, as eventstore.Lot encodes them; may be missing
}

// PublishUpdate publishes an update. Call it after the commit (Tx.OnCommit), never before.
func PublishUpdate(b Bus, u Update) {
	data, err := json.Marshal(u)
	if err != nil {
		data = nil // cannot be (strings and numbers only); nil reads as "look at everything"
	}
	b.Publish(TopicUpdates, data)
}

// SubscribeUpdates calls fn for each update. A message that cannot be read (a node of another version) arrives
// as the zero Update, which means: something changed, look at every stream. Positions may arrive out of
// order when several nodes publish.
func SubscribeUpdates(b Bus, fn func(u Update)) (cancel func()) {
	return b.Subscribe(TopicUpdates, func(data []byte) {
		var u Update
		if err := json.Unmarshal(data, &u); err != nil {
			u = Update{}
		}
		fn(u)
	})
}
