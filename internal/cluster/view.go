package cluster

import (
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// view is what a node knows after a heartbeat. It is not changed once it is published, except that changed is closed.
type view struct {
	// The node owns its share at times from ≤ t < until.
	from, until time.Duration
	beat        int64                    // the number of the last heartbeat
	began       [keptBeats]time.Duration // when each of the last ones was written first, by its number
	back        int64                    // the first one after an absence: others must have seen that one who ask for something
	absences    int64                    // how often the node was away
	settled     time.Duration            // when what had waited for it in the meantime has been read
	counted     time.Duration            // from then on others may count the node out, unless it writes another heartbeat; 0: there are none
	self        Node
	nodes       []Node // the live ones, self included, by id
	all         []sighting
	members     map[string][]member            // by component: who shares its keys, by id of the node
	dealt       map[string]*[RoomShares]uint16 // by component: whom each share of rooms was dealt to, as a place in members
	changed     chan struct{}
}

// sighting is when a node was last seen to live.
type sighting struct {
	Node
	at   time.Duration
	live bool
}

// member is a node that runs a component.
type member struct {
	node         *Node
	seed, common uint64 // seed is of node and component, common of the node
	self         bool
}

func newView(self sighting, others []sighting, from, until time.Duration) *view {
	v := &view{from: from, until: until, self: self.Node, members: make(map[string][]member), dealt: make(map[string]*[RoomShares]uint16)}
	v.all = append(slices.Clone(others), self)
	slices.SortFunc(v.all, func(a, b sighting) int { return strings.Compare(a.ID, b.ID) })
	for _, s := range v.all {
		if s.live {
			v.nodes = append(v.nodes, s.Node)
		}
	}
	for i := range v.nodes {
		n := &v.nodes[i]
		if n.Leaving {
			continue
		}
		for _, c := range n.Components {
			v.members[c] = append(v.members[c], member{node: n, seed: seed(c, n.ID), common: seed("", n.ID), self: n.ID == self.ID})
		}
	}
	for c, members := range v.members {
		v.dealt[c] = deal(members)
	}
	return v
}

// sameNodes tells whether two views agree on who is there, where, and whether it leaves.
func sameNodes(a, b *view) bool {
	return slices.EqualFunc(a.nodes, b.nodes, func(a, b Node) bool {
		return a.ID == b.ID && a.Address == b.Address && a.HTTP == b.HTTP && a.Leaving == b.Leaving
	})
}

// owner gives the member to which a key belongs, nil when there is none: the one whose weight for the key is the highest, or to
// which a share of rooms was dealt.
func (v *view) owner(component, key string) *member {
	members := v.members[component]
	if len(members) == 0 {
		return nil
	}
	if share, ok := shareOf(key); ok {
		return &members[v.dealt[component][share]]
	}
	k := keyHash(key)
	best, top := 0, weight(members[0].seed, k)
	for i := 1; i < len(members); i++ {
		if w := weight(members[i].seed, k); w > top {
			best, top = i, w
		}
	}
	return &members[best]
}

// seed, keyHash and weight are the same on all nodes and in all versions: were they to change, nodes of two versions
// would disagree about owners for as long as both run.

func seed(component, node string) uint64 {
	return xxhash.Sum64String(component + "\x00" + node)
}

func keyHash(key string) uint64 { return xxhash.Sum64String(key) }

// weight mixes a member's seed with the hash of a key. The mixing is that of SplitMix64, in which each bit of the input
// changes half of the output.
func weight(seed, key uint64) uint64 {
	x := seed ^ key
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// ranked gives the nodes of byWeight.
func (v *view) ranked(component, key string) []Node {
	members := v.byWeight(component, key)
	nodes := make([]Node, len(members))
	for i, m := range members {
		nodes[i] = *m.node
	}
	return nodes
}
