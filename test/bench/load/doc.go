// Package load speaks the client–server API to a homeserver under load: one HTTP client with a transport made for many kept
// connections, users, rooms, messages and syncs, and the arithmetic of latencies.
//
// It shares the machine with the server it measures, so it does little per request: buffers are reused, answers are read
// with gjson where they lie, and nothing is decoded that nobody looks at. A refusal for overload (429 or 503) is obeyed and
// counted; every other unexpected answer is an error with its text.
package load
