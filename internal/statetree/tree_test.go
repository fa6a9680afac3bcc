package statetree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/internal/nid"
)

// naive is the obvious implementation that the tree is compared with.
type naive map[Key]nid.Event

func (n naive) apply(changes []Change) naive {
	out := maps.Clone(n)
	for _, c := range changes {
		if c.Event == 0 {
			delete(out, c.Key)
		} else {
			out[c.Key] = c.Event
		}
	}
	return out
}

func (n naive) entries() []Entry {
	out := make([]Entry, 0, len(n))
	for k, e := range n {
		out = append(out, Entry{k, e})
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Compare(b.Key) })
	return out
}

// store is a loader over a map that counts what is read.
type store struct {
	nodes   map[Hash][]byte
	reads   int
	batches int
}

func newStore() *store { return &store{nodes: map[Hash][]byte{}} }

func (s *store) Node(_ context.Context, h Hash) ([]byte, error) {
	s.reads++
	s.batches++
	raw, ok := s.nodes[h]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrMissing, h)
	}
	return raw, nil
}

func (s *store) Nodes(ctx context.Context, hashes []Hash) ([][]byte, error) {
	out := make([][]byte, len(hashes))
	for i, h := range hashes {
		raw, err := s.Node(ctx, h)
		if err != nil {
			return nil, err
		}
		out[i] = raw
	}
	s.batches -= len(hashes) - 1
	return out, nil
}

func (s *store) apply(t testing.TB, root Root, changes []Change) Root {
	t.Helper()
	b := NewBatch(s)
	root, err := Apply(context.Background(), s, root, changes, b)
	if err != nil {
		t.Fatal(err)
	}
	for h, raw := range b.All {
		if len(raw) > MaxNode {
			t.Fatalf("a node of %d bytes", len(raw))
		}
		s.nodes[h] = raw
	}
	return root
}

func (s *store) list(t testing.TB, root Root) []Entry {
	t.Helper()
	var out []Entry
	if err := Walk(context.Background(), s, root, func(e Entry) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// keys draws keys that collide in long prefixes as well as keys far apart.
func keys() *rapid.Generator[Key] {
	return rapid.Custom(func(t *rapid.T) Key {
		typ := nid.Type(rapid.SampledFrom([]int64{1, 2, 4, 4, 4, 17, 300, 1 << 60}).Draw(t, "type"))
		sk := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(0, 1<<61),
			rapid.Map(rapid.Int64Range(0, 40), func(v int64) int64 { return v << 20 })).Draw(t, "key")
		return Key{typ, nid.StateKey(sk)}
	})
}

// changesGen draws up to maxLen changes; sizes are spread evenly, for the shape
// changes around LeafMax.
func changesGen(maxLen int) *rapid.Generator[[]Change] {
	return rapid.Custom(func(t *rapid.T) []Change {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		dense := rapid.Bool().Draw(t, "dense")
		out := make([]Change, rapid.IntRange(0, maxLen).Draw(t, "size"))
		for i := range out {
			out[i] = Change{randomKey(rng, dense), nid.Event(rng.Int64N(1 << rng.IntN(61)))}
			if rng.IntN(5) == 0 {
				out[i].Event = 0
			}
		}
		return out
	})
}

func randomKey(rng *rand.Rand, dense bool) Key {
	if dense {
		return Key{nid.TypeMember, nid.StateKey(rng.IntN(200))}
	}
	k := Key{Type: []nid.Type{1, 2, 4, 4, 4, 17, 300, 1 << 60}[rng.IntN(8)]}
	switch rng.IntN(3) {
	case 0:
		k.StateKey = nid.StateKey(rng.IntN(300))
	case 1:
		k.StateKey = nid.StateKey(rng.Int64N(1 << 61))
	default:
		k.StateKey = nid.StateKey(rng.IntN(40) << 20)
	}
	return k
}

func TestCanonicalWhateverTheHistory(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		s, want, root := newStore(), naive{}, Root{}
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			changes := changesGen(120).Draw(rt, "changes")
			root, want = s.apply(t, root, changes), want.apply(changes)
		}
		entries := want.entries()
		if got := s.list(t, root); !slices.Equal(got, entries) {
			rt.Fatalf("walk gives %v, want %v", got, entries)
		}
		if n, err := Count(ctx, s, root); err != nil || n != len(entries) {
			rt.Fatalf("count %d (%v), want %d", n, err, len(entries))
		}
		if err := Verify(ctx, s, root); err != nil {
			rt.Fatal(err)
		}
		// The same map, one entry at a time in another order.
		other, shuffled := Root{}, slices.Clone(entries)
		rand.New(rand.NewPCG(1, uint64(len(entries)))).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for _, e := range shuffled {
			other = s.apply(t, other, []Change{Change(e)})
		}
		if other != root {
			rt.Fatalf("inserted in another order: %s, want %s", other, root)
		}
		// Taking everything away again leaves the empty root.
		for i, e := range shuffled {
			other = s.apply(t, other, []Change{{Key: e.Key}})
			if i%16 == 0 {
				if err := Verify(ctx, s, other); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if !other.Empty() {
			rt.Fatalf("removing all entries leaves %s", other)
		}
	})
}

func TestLookupsEqualNaive(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		s := newStore()
		changes := changesGen(200).Draw(rt, "changes")
		want := naive{}.apply(changes)
		root := s.apply(t, Root{}, changes)
		asked := rapid.SliceOf(keys()).Draw(rt, "asked")
		for _, e := range want.entries() {
			asked = append(asked, e.Key)
		}
		many, err := GetMany(ctx, s, root, asked)
		if err != nil {
			rt.Fatal(err)
		}
		for i, k := range asked {
			got, ok, err := Get(ctx, s, root, k)
			if err != nil || got != want[k] || ok != (want[k] != 0) || many[i] != want[k] {
				rt.Fatalf("%v: got %d, %v (%v), many %d, want %d", k, got, ok, err, many[i], want[k])
			}
		}
		from := keys().Draw(rt, "from")
		var got []Entry
		if err := WalkFrom(ctx, s, root, from, func(e Entry) error { got = append(got, e); return nil }); err != nil {
			rt.Fatal(err)
		}
		tail := want.entries()
		for len(tail) > 0 && tail[0].Less(from) {
			tail = tail[1:]
		}
		if !slices.Equal(got, tail) {
			rt.Fatalf("from %v: got %v, want %v", from, got, tail)
		}
	})
}

func TestConflictsEqualNaive(t *testing.T) {
	ctx := context.Background()
	type conflict struct {
		key    Key
		events string
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := newStore()
		base := changesGen(200).Draw(rt, "base")
		n := rapid.IntRange(2, 4).Draw(rt, "sides")
		roots, sides := make([]Root, n), make([]naive, n)
		all := naive{}
		for i := range n {
			start := base
			if rapid.IntRange(0, 4).Draw(rt, "unrelated") == 0 {
				start = nil
			}
			own := changesGen(20).Draw(rt, "own")
			sides[i] = naive{}.apply(start).apply(own)
			roots[i] = s.apply(t, s.apply(t, Root{}, start), own)
			maps.Copy(all, sides[i])
		}
		var want, got []conflict
		for _, e := range all.entries() {
			events, differ := make([]nid.Event, n), false
			for i := range n {
				events[i] = sides[i][e.Key]
				differ = differ || events[i] != events[0]
			}
			if differ {
				want = append(want, conflict{e.Key, fmt.Sprint(events)})
			}
		}
		err := Conflicts(ctx, s, roots, func(k Key, events []nid.Event) error {
			got = append(got, conflict{k, fmt.Sprint(events)})
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			rt.Fatalf("got %v (%v)\nwant %v", got, err, want)
		}
	})
}

func TestDiffReadsOnlyWhatDiffers(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	a := s.apply(t, Root{}, members(100_000))
	b := s.apply(t, a, []Change{{Key{nid.TypeMember, 5_000}, 7}, {Key{nid.TypeMember, 70_000}, 0}, {Key{nid.TypeName, 1}, 9}})
	s.reads = 0
	var got []string
	if err := Diff(ctx, s, a, b, func(k Key, x, y nid.Event) error {
		got = append(got, fmt.Sprint(k, x != 0, y != 0))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"{4 5000} true true", "{4 70000} true false", "{6 1} false true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if s.reads > 40 {
		t.Errorf("%d nodes read for three differences", s.reads)
	}
}

func TestWalkStops(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	root := s.apply(t, Root{}, append(members(5_000), Change{Key{nid.TypeCreate, 1}, 1}, Change{Key{nid.TypeName, 1}, 2}))
	n := 0
	if err := WalkType(ctx, s, root, nid.TypeMember, func(Entry) error { n++; return nil }); err != nil || n != 5_000 {
		t.Errorf("%d members (%v), want 5000", n, err)
	}
	n = 0
	if err := Walk(ctx, s, root, func(Entry) error {
		if n++; n == 10 {
			return Stop
		}
		return nil
	}); err != nil || n != 10 {
		t.Errorf("stopped after %d (%v), want 10", n, err)
	}
	boom := errors.New("boom")
	if err := Walk(ctx, s, root, func(Entry) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want the callback's error", err)
	}
}

func TestGetEachSharesReads(t *testing.T) {
	s := newStore()
	root := s.apply(t, Root{}, members(10_000))
	var lookups []Lookup
	for i := range 50 {
		root = s.apply(t, root, []Change{{Key{nid.TypeName, 1}, nid.Event(i + 1)}})
		lookups = append(lookups, Lookup{root, Key{nid.TypeName, 1}}, Lookup{root, Key{nid.TypeMember, 77}})
	}
	s.reads, s.batches = 0, 0
	got, err := GetEach(context.Background(), s, lookups)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if got[2*i] != nid.Event(i+1) || got[2*i+1] == 0 {
			t.Fatalf("lookup %d: %v", i, got[2*i:2*i+2])
		}
	}
	if s.batches > 6 {
		t.Errorf("%d batches for 100 lookups in 50 states", s.batches)
	}
}

// remembering is a store whose nodes stay decoded.
type remembering struct {
	*store
	decoded Decoded
}

func (r *remembering) Decoded() *Decoded { return &r.decoded }

func TestDecodedNodesAreNotReadAgain(t *testing.T) {
	s := &remembering{store: newStore()}
	root := s.apply(t, Root{}, members(10_000))
	s.reads = 0
	get := func(key nid.StateKey, want nid.Event) int {
		t.Helper()
		before := s.reads
		got, err := GetEach(context.Background(), s, []Lookup{{root, Key{nid.TypeMember, key}}})
		if err != nil || got[0] != want {
			t.Fatalf("%d: %v, %v, want %d", key, got, err, want)
		}
		return s.reads - before
	}
	all, err := GetMany(context.Background(), s.store, root, []Key{{nid.TypeMember, 77}, {nid.TypeMember, 78}})
	if err != nil {
		t.Fatal(err)
	}
	if n := get(77, all[0]); n == 0 {
		t.Error("nothing was read at first")
	}
	if n := get(77, all[0]); n != 0 {
		t.Errorf("%d nodes read again", n)
	}
	for key := range nid.StateKey(10_000) { // more than are kept
		if _, err := GetEach(context.Background(), s, []Lookup{{root, Key{nid.TypeMember, key}}}); err != nil {
			t.Fatal(err)
		}
	}
	few := len(s.decoded.nodes)
	keys := make([]Key, 40_000)
	for i := range keys {
		keys[i] = Key{nid.TypeMember, nid.StateKey(i)}
	}
	if _, err := GetMany(context.Background(), s, s.apply(t, Root{}, members(40_000)), keys); err != nil {
		t.Fatal(err)
	}
	if many := len(s.decoded.nodes); few > maxDecoded || many > maxDecoded || many < maxDecoded/2 {
		t.Errorf("%d and %d nodes are kept", few, many)
	}
	get(78, all[1])
	before, other := s.reads, s.apply(t, root, []Change{{Key{nid.TypeMember, 78}, 1_000_000}})
	s.reads = before
	root = other
	get(78, 1_000_000) // by its hash: what is kept never gets old
}

func TestMissingAndCorruptNodes(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	root := s.apply(t, Root{}, members(500))
	if err := Verify(ctx, s, root); err != nil {
		t.Fatal(err)
	}
	for h, raw := range maps.Clone(s.nodes) {
		delete(s.nodes, h)
		if err := Walk(ctx, s, root, func(Entry) error { return nil }); !errors.Is(err, ErrMissing) {
			t.Fatalf("without %s: %v, want ErrMissing", h, err)
		}
		s.nodes[h] = append(slices.Clone(raw), 0)
		if err := Verify(ctx, s, root); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with %s changed: %v, want ErrCorrupt", h, err)
		}
		s.nodes[h] = raw
	}
}

func TestApplyRefusesNumbersOutOfRange(t *testing.T) {
	for _, c := range []Change{{Key{-1, 1}, 1}, {Key{1, -1}, 1}, {Key{1, 1}, -1}, {Key{1, 1}, 1<<61 + 1}} {
		if _, err := Apply(context.Background(), nil, Root{}, []Change{c}, NewBatch(nil)); err == nil {
			t.Errorf("%v was taken", c)
		}
	}
}

func TestBatchKeepsOnlyWhatIsReachable(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	base := s.apply(t, Root{}, members(1_000))
	b := NewBatch(s)
	root := base
	var err error
	for i := range 20 {
		if root, err = Apply(ctx, b, root, []Change{{Key{nid.TypeMember, nid.StateKey(i + 10)}, 9_999_999}}, b); err != nil {
			t.Fatal(err)
		}
	}
	before := b.Len()
	if err := b.Keep(root); err != nil {
		t.Fatal(err)
	}
	if b.Len() >= before {
		t.Errorf("%d of %d nodes kept", b.Len(), before)
	}
	if err := Verify(ctx, b, root); err != nil {
		t.Error(err)
	}
}

// members makes a room of n members, as a join of a big room writes it: the
// users' numbers in a shuffled order, the events' in blocks.
func members(n int) []Change {
	rng := rand.New(rand.NewPCG(3, 4))
	out := make([]Change, n)
	for i, p := range rng.Perm(n) {
		out[i] = Change{Key{nid.TypeMember, nid.StateKey(p + 2)}, nid.Event(1_000_000 + i)}
	}
	return out
}

func TestWrittenBytesPerChange(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	state := append(members(100_000), Change{Key{nid.TypeCreate, 1}, 1}, Change{Key{nid.TypePowerLevels, 1}, 2}, Change{Key{nid.TypeName, 1}, 3})
	root := s.apply(t, Root{}, state)
	whole := 0
	for _, raw := range s.nodes {
		whole += len(raw) + 16
	}
	rng := rand.New(rand.NewPCG(5, 6))
	total, nodes := 0, 0
	const changes = 1_000
	for i := range changes {
		b := NewBatch(s)
		var err error
		c := Change{Key{nid.TypeMember, nid.StateKey(rng.IntN(100_000) + 2)}, nid.Event(2_000_000 + i*7)}
		if root, err = Apply(ctx, s, root, []Change{c}, b); err != nil {
			t.Fatal(err)
		}
		total, nodes = total+b.Bytes(), nodes+b.Len()
		for h, raw := range b.All {
			s.nodes[h] = raw
		}
	}
	t.Logf("100,000 members: %d nodes, %.1f bytes per entry; %d changes wrote %d bytes and %.1f nodes each",
		len(s.nodes), float64(whole)/100_003, changes, total/changes, float64(nodes)/changes)
	if total/changes >= 2_000 {
		t.Errorf("%d bytes written per change, want less than 2000", total/changes)
	}
	if err := Verify(ctx, s, root); err != nil {
		t.Error(err)
	}
}

func TestMarkerKeepsExactlyTheLiving(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		s := newStore()
		var roots []Root
		root := s.apply(t, Root{}, changesGen(150).Draw(rt, "base"))
		for range rapid.IntRange(1, 8).Draw(rt, "n") {
			from := root
			if len(roots) > 0 && rapid.Bool().Draw(rt, "fork") {
				from = rapid.SampledFrom(roots).Draw(rt, "from")
			}
			root = s.apply(t, from, changesGen(30).Draw(rt, "changes"))
			roots = append(roots, root)
		}
		living := roots[:rapid.IntRange(0, len(roots)).Draw(rt, "living")]
		m := NewMarker(s, 1<<12, rapid.Uint64().Draw(rt, "seed"))
		last := Root{}
		for _, r := range living {
			if err := m.Mark(ctx, r, last); err != nil {
				rt.Fatal(err)
			}
			last = r
		}
		left := newStore()
		for h, raw := range s.nodes {
			if m.Marked(h) {
				left.nodes[h] = raw
			}
		}
		want := map[Hash]bool{}
		for _, r := range living {
			if err := Verify(ctx, left, r); err != nil {
				rt.Fatal(err)
			}
			reach(s, Hash(r), want)
		}
		// The filter is wide enough here for hardly any dead node to survive.
		if len(left.nodes) > len(want)+3 {
			rt.Fatalf("%d nodes left, %d are in use", len(left.nodes), len(want))
		}
	})
}

func reach(s *store, h Hash, seen map[Hash]bool) {
	raw, ok := s.nodes[h]
	if !ok || seen[h] {
		return
	}
	seen[h] = true
	n, _ := decode(raw)
	if !n.branch() {
		return
	}
	for i := range n.children {
		if n.children[i].stored {
			reach(s, n.children[i].hash, seen)
		}
	}
}

func TestMarkerVisitsOnlyDifferences(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	root := s.apply(t, Root{}, members(20_000))
	m := NewMarker(s, 1<<16, 1)
	if err := m.Mark(ctx, root, Root{}); err != nil {
		t.Fatal(err)
	}
	clear(m.recent) // the pruning by comparison alone
	before := m.Nodes()
	for i := range 100 {
		like := root
		root = s.apply(t, root, []Change{{Key{nid.TypeMember, nid.StateKey(i*100 + 2)}, nid.Event(5_000_000 + i)}})
		if err := m.Mark(ctx, root, like); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Nodes() - before; n > 100*6 {
		t.Errorf("%d nodes visited for 100 changes", n)
	}
}

func FuzzDecode(f *testing.F) {
	s := newStore()
	s.apply(f, Root{}, append(members(200), Change{Key{1 << 60, 1}, 5}, Change{Key{nid.TypeName, 1}, 5}))
	for _, raw := range s.nodes {
		f.Add(raw)
	}
	f.Add([]byte{formatLeaf, 4, 1, 2, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := decode(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v does not wrap ErrCorrupt", err)
			}
			return
		}
		var again []byte
		if n.branch() {
			again = encodeBranch(&n)
		} else {
			again = encodeLeaf(n.entries)
		}
		if !slices.Equal(raw, again) {
			t.Fatalf("%x was read, and written as %x", raw, again)
		}
	})
}

func BenchmarkApplyOne(b *testing.B) {
	s := newStore()
	root := s.apply(b, Root{}, members(100_000))
	for i := range b.N {
		root = s.apply(b, root, []Change{{Key{nid.TypeMember, nid.StateKey(i%100_000 + 2)}, nid.Event(9_000_000 + i)}})
	}
}

func BenchmarkBuild100k(b *testing.B) {
	changes := members(100_000)
	for b.Loop() {
		newStore().apply(b, Root{}, changes)
	}
}
