package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func viewOf(ids ...string) *view {
	list := make([]sighting, 0, len(ids))
	for _, id := range ids {
		list = append(list, sighting{Node: Node{ID: id, Components: []string{"keys", "rooms"}}, live: true})
	}
	return newView(list[0], list[1:], 0, time.Hour)
}

// Nodes of different versions must agree: these values do not change.
func TestWeightIsFixed(t *testing.T) {
	for _, tc := range []struct {
		component, node, key string
		want                 uint64
	}{
		{"rooms", "00000000000000000000000000000001", "!a:example.org", 0xace2ccb5379014ae},
		{"rooms", "00000000000000000000000000000002", "!a:example.org", 0x11799d00317242be},
		{"keys", "00000000000000000000000000000001", "@a:example.org", 0x49250d498a83fc83},
		{"keys", "", "", 0x87ca1be177e1d56f},
	} {
		if got := weight(seed(tc.component, tc.node), keyHash(tc.key)); got != tc.want {
			t.Errorf("%+v: %#x", tc, got)
		}
	}
}

// Each node has its share, and each pair of nodes, for two components, shares as if by chance.
func TestSharesAreEven(t *testing.T) {
	const keys, nodes = 10_000, 5
	for set := range 20 {
		var ids []string
		for i := range nodes {
			ids = append(ids, fmt.Sprintf("%032x", set*nodes+i+1)) // ids that differ in little
		}
		v := viewOf(ids...)
		counts, both := map[string]int{}, 0
		for i := range keys {
			owner := v.owner("rooms", key(i)).node.ID
			counts[owner]++
			if v.owner("keys", key(i)).node.ID == owner {
				both++
			}
		}
		// One standard deviation is 40 keys.
		for id, n := range counts {
			if n < 2000-180 || n > 2000+180 {
				t.Errorf("set %d: node %s owns %d of %d keys", set, id, n, keys)
			}
		}
		if both < 2000-180 || both > 2000+180 {
			t.Errorf("set %d: %d keys have the same owner in both components", set, both)
		}
	}
}

func TestOnlyTheShareMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[0-9a-f]{32}`), 2, 20, rapid.ID[string]).Draw(t, "nodes")
		all, without := viewOf(ids...), viewOf(ids[:len(ids)-1]...)
		gone := ids[len(ids)-1]
		shuffled := slices.Clone(ids)
		slices.Reverse(shuffled)
		other := viewOf(shuffled...)
		for _, k := range rapid.SliceOfN(rapid.String(), 1, 50).Draw(t, "keys") {
			before, after := all.owner("rooms", k).node.ID, without.owner("rooms", k).node.ID
			if before != gone && before != after {
				t.Fatalf("%q moved from %s to %s when %s left", k, before, after, gone)
			}
			if o := other.owner("rooms", k).node.ID; o != before {
				t.Fatalf("%q: owner %s, seen from another node %s", k, before, o)
			}
		}
	})
}

func TestOwnsAllocatesNothing(t *testing.T) {
	c, keys := benchCluster(5)
	if n := testing.AllocsPerRun(100, func() { c.Owns("rooms", keys[0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func benchCluster(nodes int) (*Cluster, []string) {
	cfg := Config{Components: []string{"rooms"}}
	if err := cfg.check(); err != nil {
		panic(err)
	}
	c := newCluster(cfg, &memory{})
	var others []sighting
	for i := range nodes - 1 {
		others = append(others, sighting{Node: Node{ID: fmt.Sprintf("%032x", i), Components: c.self.Components}, live: true})
	}
	c.view.Store(newView(sighting{Node: c.self, live: true}, others, 0, time.Hour))
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = key(i)
	}
	return c, keys
}

func BenchmarkOwns(b *testing.B) {
	for _, nodes := range []int{1, 5, 50} {
		b.Run(fmt.Sprintf("%d_nodes", nodes), func(b *testing.B) {
			c, keys := benchCluster(nodes)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					c.Owns("rooms", keys[i%len(keys)])
				}
			})
		})
	}
	b.Run("single", func(b *testing.B) {
		c := Single(nil)
		for b.Loop() {
			c.Owns("rooms", "!a:example.org")
		}
	})
}

// Shares of rooms are dealt out evenly, the same for all components and from each node's eyes, and whom a share is not dealt to
// is asked after the one it is dealt to.
func TestRoomSharesAreDealt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[0-9a-f]{32}`), 1, 80, rapid.ID[string]).Draw(t, "nodes")
		v := viewOf(ids...)
		slices.Reverse(ids)
		other := viewOf(ids...)
		got := make(map[string]int)
		for share := range RoomShares {
			k := ShareKey(share)
			owner := v.owner("rooms", k).node.ID
			got[owner]++
			if o := v.owner("keys", k).node.ID; o != owner {
				t.Fatalf("%s: %s for one component, %s for the other", k, owner, o)
			}
			if o := other.owner("rooms", k).node.ID; o != owner {
				t.Fatalf("%s: owner %s, seen from another node %s", k, owner, o)
			}
			ranked := v.ranked("rooms", k)
			names := make(map[string]bool)
			for _, n := range ranked {
				names[n.ID] = true
			}
			if ranked[0].ID != owner || len(names) != len(ids) {
				t.Fatalf("%s: owner %s, in order %v", k, owner, ranked)
			}
		}
		for id, n := range got {
			if n*len(ids) >= RoomShares+len(ids) {
				t.Fatalf("%s has %d shares, with %d nodes", id, n, len(ids))
			}
		}
	})
}

// When a node goes, its shares move, and few others.
func TestDealtSharesStay(t *testing.T) {
	const nodes, sets = 5, 200
	moved := 0
	for set := range sets {
		var ids []string
		for i := range nodes {
			ids = append(ids, fmt.Sprintf("%032x", set*nodes+i+1))
		}
		all, without := viewOf(ids...), viewOf(ids[:nodes-1]...)
		for share := range RoomShares {
			before, after := all.owner("rooms", ShareKey(share)).node.ID, without.owner("rooms", ShareKey(share)).node.ID
			if before != ids[nodes-1] && before != after {
				moved++
			}
		}
	}
	t.Logf("%.1f of the others' %d shares move", float64(moved)/sets, RoomShares*(nodes-1)/nodes)
	if moved > sets*RoomShares/8 {
		t.Errorf("%d of the others' shares move in %d sets", moved, sets)
	}
}

func TestRoomShare(t *testing.T) {
	if share := RoomShare("!a:example.org"); share != 21 {
		t.Errorf("the share is %d", share) // nodes of different versions must agree: it does not change
	}
	for _, key := range []string{"rooms/64", "rooms/-1", "rooms/07", "rooms/", "room/1", "", "rooms/1x"} {
		if share, ok := shareOf(key); ok {
			t.Errorf("%q is share %d", key, share)
		}
	}
	for share := range RoomShares {
		if got, ok := shareOf(ShareKey(share)); !ok || got != share {
			t.Errorf("%q is share %d, %v", ShareKey(share), got, ok)
		}
	}
}
