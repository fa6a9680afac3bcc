package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestSetting(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		if err := Migrate(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		const askers = 8
		var made atomic.Int64
		var got [askers][]byte
		var ready, done sync.WaitGroup
		ready.Add(askers)
		for i := range askers {
			done.Go(func() {
				var err error
				got[i], err = Setting(t.Context(), db, "secret", func() ([]byte, error) {
					made.Add(1)
					ready.Done()
					ready.Wait() // all make one
					return fmt.Appendf(nil, "value %d\x00", i), nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		for i := range got {
			if len(got[i]) == 0 || !bytes.Equal(got[i], got[0]) {
				t.Errorf("%q and %q", got[i], got[0])
			}
		}
		later, err := Setting(t.Context(), db, "secret", func() ([]byte, error) { return nil, errors.New("made again") })
		if err != nil || !bytes.Equal(later, got[0]) || made.Load() != askers {
			t.Errorf("later: %q (%v)", later, err)
		}
		onPurpose := errors.New("on purpose")
		give := func(v []byte, err error) func() ([]byte, error) { return func() ([]byte, error) { return v, err } }
		for name, create := range map[string]func() ([]byte, error){
			"empty": give(nil, nil), "long": give(make([]byte, maxSettingValue+1), nil), "": give([]byte("v"), nil),
			strings.Repeat("n", 65): give([]byte("v"), nil), "a\x00": give([]byte("v"), nil),
		} {
			if v, err := Setting(t.Context(), db, name, create); err == nil {
				t.Errorf("%q: %q", name, v)
			}
		}
		if _, err := Setting(t.Context(), db, "failed", give(nil, onPurpose)); !errors.Is(err, onPurpose) {
			t.Errorf("an error of create became %v", err)
		}
		if v, err := Setting(t.Context(), db, "failed", give([]byte("v"), nil)); err != nil || string(v) != "v" {
			t.Errorf("after a failure: %q (%v)", v, err)
		}
	})
}
