// Package sample makes events that look like those of real rooms: for training the
// event store's dictionary, and for tests that measure sizes. The same seed gives
// the same events.
package sample
