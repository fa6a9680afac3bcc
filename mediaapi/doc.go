// Package mediaapi is the content repository: uploads, downloads and thumbnails
// of local and remote media.
//
// Bytes are stored once, under their SHA-256, in files: the same picture sent
// to ten rooms is one file. Rows in the database give them their names
// (server, media ID), so a row is written only after its file is on disk, and a
// file without a row is garbage, never a broken link. Nothing is held in memory
// whole except an image while it is scaled, and of those only as many as a
// semaphore allows; how large an image may be is read from its header first.
//
// Remote media is fetched once, however many clients ask at the same time, and
// kept as a cache.
package mediaapi
