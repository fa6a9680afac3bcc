package remote

import (
	"fmt"
	"strconv"
	"strings"

	"weft/matrix/id"
)

// memberPrefix begins the localparts of a room's users: "member-000123". Number 0
// is the creator.
const memberPrefix = "member-"

// member gives the user of a number. They are dealt out to the server's names in
// turn, so the creator is of the main one.
func (s *Server) member(n int) id.User {
	return id.User(fmt.Sprintf("@%s%06d:%s", memberPrefix, n, s.identities[n%len(s.identities)].name))
}

// memberNumber undoes member; ok is false for users that are none.
func (s *Server) memberNumber(user id.User) (n int, ok bool) {
	digits, ok := strings.CutPrefix(user.Localpart(), memberPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || s.member(n) != user {
		return 0, false
	}
	return n, true
}
