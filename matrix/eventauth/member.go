package eventauth

import (
	"weft/matrix/canonical"
	"weft/matrix/id"
)

// member is the rule about m.room.member.
func (k *check) member() verdict {
	e := k.e
	membership, ok := canonical.String(canonical.Get(e.Content(), "membership"))
	if !e.IsState || canonical.Get(e.Content(), "membership") == nil {
		return reject(StepMemberKeys, "m.room.member has no state_key or no membership")
	}
	if v := k.authorised(); v.decided() {
		return v
	}
	switch {
	case !ok:
		return reject(StepMemberUnknown, "the membership is not a string")
	case membership == join:
		return k.join()
	case membership == invite:
		return k.invite()
	case membership == leave:
		return k.leave()
	case membership == ban:
		return k.ban()
	case membership == knock && k.r.Knock:
		return k.knock()
	}
	return reject(StepMemberUnknown, "the membership %q is unknown", membership)
}

// authorised looks for the signature of the server that authorised a restricted
// join. That the signature is right was verified with the event's others.
func (k *check) authorised() verdict {
	if !k.r.RestrictedJoin {
		return verdict{}
	}
	value := canonical.Get(k.e.Content(), "join_authorised_via_users_server")
	if value == nil {
		return verdict{}
	}
	s, _ := canonical.String(value)
	user, err := id.ParseUser(s)
	if err != nil {
		return reject(StepMemberAuthorised, "join_authorised_via_users_server is no user ID: %s", value)
	}
	if len(k.e.SignatureKeys(user.Server())) == 0 {
		return reject(StepMemberAuthorised, "the event is not signed by %s", user.Server())
	}
	return verdict{}
}

// joinRule gives the room's join rule, "invite" if there is none.
func (k *check) joinRule() string {
	if jr := k.state.Get(TypeJoinRules, ""); jr != nil {
		return text(jr.Content(), "join_rule")
	}
	return invite
}

func (k *check) join() verdict {
	e := k.e
	target := id.User(e.StateKey)
	if len(e.PrevEvents) == 1 && e.PrevEvents[0] == k.create.ID && target == k.about.creator {
		return allow(StepJoinCreator)
	}
	if e.Sender != target {
		return reject(StepJoinSender, "%s may not join for %s", e.Sender, target)
	}
	membership := k.membership(target)
	if membership == ban {
		return reject(StepJoinBanned, "%s is banned", target)
	}
	member := membership == invite || membership == join
	rule := k.joinRule()
	switch {
	case (rule == invite || rule == knock && k.r.Knock) && member:
		return allow(StepJoinInvited)
	case rule == "restricted" && k.r.RestrictedJoin, rule == "knock_restricted" && k.r.KnockRestricted:
		if member {
			return allow(StepJoinRestrictedMember)
		}
		return k.restrictedJoin()
	case rule == "public":
		return allow(StepJoinPublic)
	}
	return reject(StepJoinOtherwise, "the join rule %q does not let %s in", rule, target)
}

// restrictedJoin looks at the user whose server let a restricted join in.
func (k *check) restrictedJoin() verdict {
	via := id.User(text(k.e.Content(), "join_authorised_via_users_server"))
	if via == "" {
		return reject(StepJoinRestrictedAuthoriser, "nobody authorised the restricted join")
	}
	if k.membership(via) != join {
		return reject(StepJoinRestrictedAuthoriser, "%s, who authorised the join, is not joined", via)
	}
	if level := k.levels.User(via); level < k.levels.Invite {
		return reject(StepJoinRestrictedAuthoriser, "%s, who authorised the join, has power level %d, inviting needs %d",
			via, level, k.levels.Invite)
	}
	return allow(StepJoinRestrictedAllow)
}

func (k *check) invite() verdict {
	e := k.e
	target := id.User(e.StateKey)
	if third := canonical.Get(e.Content(), "third_party_invite"); third != nil {
		return k.thirdPartyInvite(third)
	}
	if k.membership(e.Sender) != join {
		return reject(StepInviteSender, "%s is not joined to the room", e.Sender)
	}
	if m := k.membership(target); m == join || m == ban {
		return reject(StepInviteTarget, "%s cannot be invited: the membership is %q", target, m)
	}
	if k.levels.User(e.Sender) >= k.levels.Invite {
		return allow(StepInviteLevel)
	}
	return reject(StepInviteOtherwise, "%s has power level %d, inviting needs %d",
		e.Sender, k.levels.User(e.Sender), k.levels.Invite)
}

func (k *check) leave() verdict {
	e := k.e
	target := id.User(e.StateKey)
	current := k.membership(target)
	if e.Sender == target {
		ok := current == invite || current == join || current == knock && k.r.Knock
		return either(StepLeaveSelf, ok, "%s cannot leave: the membership is %q", target, current)
	}
	if k.membership(e.Sender) != join {
		return reject(StepLeaveSender, "%s is not joined to the room", e.Sender)
	}
	level := k.levels.User(e.Sender)
	if current == ban && level < k.levels.Ban {
		return reject(StepLeaveUnban, "%s has power level %d, unbanning needs %d", e.Sender, level, k.levels.Ban)
	}
	if level >= k.levels.Kick && k.levels.User(target) < level {
		return allow(StepLeaveKick)
	}
	return reject(StepLeaveOtherwise, "%s has power level %d, kicking needs %d and more than %d",
		e.Sender, level, k.levels.Kick, k.levels.User(target))
}

func (k *check) ban() verdict {
	e := k.e
	target := id.User(e.StateKey)
	if k.membership(e.Sender) != join {
		return reject(StepBanSender, "%s is not joined to the room", e.Sender)
	}
	level := k.levels.User(e.Sender)
	if level >= k.levels.Ban && k.levels.User(target) < level {
		return allow(StepBanLevel)
	}
	return reject(StepBanOtherwise, "%s has power level %d, banning needs %d and more than %d",
		e.Sender, level, k.levels.Ban, k.levels.User(target))
}

func (k *check) knock() verdict {
	e := k.e
	rule := k.joinRule()
	if rule != knock && !(rule == "knock_restricted" && k.r.KnockRestricted) {
		return reject(StepKnockRule, "the join rule %q does not let anybody knock", rule)
	}
	if string(e.Sender) != e.StateKey {
		return reject(StepKnockSender, "%s may not knock for %s", e.Sender, e.StateKey)
	}
	switch m := k.membership(e.Sender); m {
	case ban, invite, join:
		return reject(StepKnockOtherwise, "%s may not knock: the membership is %q", e.Sender, m)
	}
	return allow(StepKnockAllow)
}
