package cluster

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// RoomShares is how many shares the rooms are in. All nodes, in all versions, must have the same.
const RoomShares = 64

const sharePrefix = "rooms/"

var shareKeys = func() (keys [RoomShares]string) {
	for i := range keys {
		keys[i] = sharePrefix + strconv.Itoa(i)
	}
	return keys
}()

// RoomShare gives the share that a room is in, by its ID.
func RoomShare(room string) int { return int(keyHash(room) % RoomShares) }

// ShareKey gives the key of ownership of a share of rooms.
func ShareKey(share int) string { return shareKeys[share] }

// shareOf gives the share that a key names.
func shareOf(key string) (share int, ok bool) {
	digits, ok := strings.CutPrefix(key, sharePrefix)
	if !ok {
		return 0, false
	}
	share, err := strconv.Atoi(digits)
	return share, err == nil && share >= 0 && share < RoomShares && shareKeys[share] == key
}

// deal gives each share of rooms a member, as its place among the members: the one whose weight for the share is the highest among
// those who have not got their part yet, RoomShares divided by the members and rounded up. The weights do not
// depend on the component, so what two components do about a room is done by one node where all nodes run both.
func deal(members []member) *[RoomShares]uint16 {
	owners := new([RoomShares]uint16)
	if len(members) < 2 {
		return owners
	}
	part := (RoomShares + len(members) - 1) / len(members)
	got := make([]int, len(members))
	for share := range owners {
		k := keyHash(shareKeys[share])
		best, top := -1, uint64(0)
		for i := range members {
			if w := weight(members[i].common, k); got[i] < part && (best < 0 || w > top) {
				best, top = i, w
			}
		}
		owners[share] = uint16(best)
		got[best]++
	}
	return owners
}

// byWeight gives the members by their weight for a key, the owner first.
func (v *view) byWeight(component, key string) []member {
	members := slices.Clone(v.members[component])
	k := keyHash(key)
	share, ok := shareOf(key)
	if !ok || len(members) == 0 {
		slices.SortFunc(members, func(a, b member) int { return cmp.Compare(weight(b.seed, k), weight(a.seed, k)) })
		return members
	}
	owner := v.dealt[component][share]
	members[0], members[owner] = members[owner], members[0]
	slices.SortFunc(members[1:], func(a, b member) int { return cmp.Compare(weight(b.common, k), weight(a.common, k)) })
	return members
}
