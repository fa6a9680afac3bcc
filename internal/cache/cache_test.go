package cache_test

import (
	"errors"
	"testing"
	"time"

	"weft/internal/cache"
)

type fixture struct {
	*cache.Cache[string, int]
	t   *testing.T
	now time.Time
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, now: time.UnixMilli(1_700_000_000_000)}
	var err error
	f.Cache, err = cache.New(1<<20, time.Minute, func() time.Time { return f.now }, func(string, int) int { return 8 })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// want loads a key and says whether it has to be read.
func (f *fixture) want(k string, v int, read bool) {
	f.t.Helper()
	did := false
	got, err := f.Load(k, func() (int, error) { did = true; return v, nil })
	if err != nil || got != v || did != read {
		f.t.Errorf("%s: got %d, read %v (%v); want %d, read %v", k, got, did, err, v, read)
	}
}

func TestValuesAreKeptUntilTheyChange(t *testing.T) {
	f := newFixture(t)
	f.want("a", 1, true)
	f.want("a", 1, false)
	f.Change("a", func(v int) (int, bool) { return v + 1, true })
	f.want("a", 2, false)
	f.Change("b", func(int) (int, bool) { t.Error("what is not there changes"); return 0, true })
	f.Change("a", func(int) (int, bool) { return 0, false })
	f.want("a", 3, true)
	f.Drop("a")
	f.want("a", 4, true)
	f.now = f.now.Add(time.Minute + 1)
	f.want("a", 5, true)
	f.Clear()
	f.want("a", 6, true)
	if _, err := f.Load("c", func() (int, error) { return 0, errors.New("on purpose") }); err == nil {
		t.Error("an error is lost")
	}
	f.want("c", 7, true)
}

// What was read before a change must not come in after it.
func TestAChangeBeatsAReader(t *testing.T) {
	for name, change := range map[string]func(*fixture){
		"drop":   func(f *fixture) { f.Drop("a") },
		"change": func(f *fixture) { f.Change("a", func(v int) (int, bool) { return v, true }) },
		"clear":  func(f *fixture) { f.Clear() },
		"reader": func(f *fixture) { f.Begin("a") },
	} {
		f := newFixture(t)
		put := f.Begin("a", "b")
		change(f)
		put("a", 1)
		put("b", 1)
		if v, ok := f.Get("a"); ok {
			t.Errorf("%s: %d came in", name, v)
		}
		if _, ok := f.Get("b"); ok != (name != "clear") {
			t.Errorf("%s: the other key: %v", name, ok)
		}
	}
}
