// Package dictzstd compresses short texts with a dictionary. What it writes is a Zstandard frame like any other, which every
// decompressor reads that has the dictionary.
//
// A general compressor prepares itself for what may come: before each text it copies the table of the dictionary's positions, which it
// is about to change (a quarter of a megabyte for some hundred bytes), and afterwards it looks for the codes that suit the
// text best, whose description would be longer than what they save. Here the table of the dictionary is read only, the text has a small
// one of its own, and the codes are those of the dictionary. A text that these do not fit is refused: Append says so, and a
// general compressor takes it.
//
// The format is that of RFC 8878, whose sections are named where they are followed.
package dictzstd
