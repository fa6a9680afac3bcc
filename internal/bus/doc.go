// Package bus carries wake-ups between the parts of the server: "stream S is at N, these rooms and users
// are touched", typing, presence, cache invalidation.
//
// Messages are plain bytes under a topic, so that the same interface fits between processes (NATS) and
// inside one (Local). Delivery is best effort on purpose: a subscriber that falls behind loses the oldest messages
// rather than stopping publishers or filling the memory. Nothing may depend on a message for being right: what
// counts is in the database, written before the message was published, and whoever waits for a message also looks
// by itself now and then.
package bus
