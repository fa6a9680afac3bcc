// Command gendict trains the event store's zstd dictionary on generated events and
// writes it to the file named as its argument. Stored events depend on the dictionary
// they were written with: never overwrite a released one, add a new number.
//
//	go run ./internal/eventstore/gendict internal/eventstore/dict/1.zdict
package main

import (
	"fmt"
	"os"

	"github.com/klauspost/compress/dict"
	"github.com/klauspost/compress/zstd"

	"weft/internal/eventstore"
	"weft/internal/eventstore/sample"
	"weft/matrix/event"
)

const (
	// dictionaryID is short, because it is written into every frame.
	dictionaryID = 1
	// dictionarySize: twice as much gained less than 1 %.
	dictionarySize = 16 << 10
	rooms          = 1500
	messages       = 10
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendict FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gendict:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	var input [][]byte
	versions := []event.RoomVersion{"12", "11", "10", "10", "9", "6", "5", "12"}
	for i := range rooms {
		r, err := sample.NewRoom(uint64(i), versions[i%len(versions)], 2)
		if err != nil {
			return err
		}
		first, err := r.Start()
		if err != nil {
			return err
		}
		for _, e := range first {
			input = append(input, eventstore.PackedText(e))
		}
		for range messages {
			e, err := r.Message()
			if err != nil {
				return err
			}
			input = append(input, eventstore.PackedText(e))
		}
	}
	out, err := dict.BuildZstdDict(input, dict.Options{
		MaxDictSize: dictionarySize, HashBytes: 6, ZstdDictID: dictionaryID, ZstdLevel: zstd.SpeedDefault,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, out, 0o644)
}
