package eventauth

// members tries a member event after the room was prepared.
func members(sender, target, membership string, prepare ...func(w *world)) func(w *world) verdict {
	return func(w *world) verdict {
		for _, p := range prepare {
			p(w)
		}
		return w.try(w.member(sender, target, membership))
	}
}

func rule(name string) func(w *world) { return func(w *world) { w.setJoinRule(name) } }

func is(user, membership string) func(w *world) {
	return func(w *world) { w.set(w.member(user, user, membership)) }
}

func needs(changes content) func(w *world) { return func(w *world) { w.setLevels(changes) } }

func joinCases() []ruleCase {
	first := func(target string, parents ...string) func(w *world) verdict {
		return func(w *world) verdict {
			for i := range parents {
				if parents[i] == "create" {
					parents[i] = string(w.create.ID)
				}
			}
			w.without(TypeMember, target)
			return w.try(w.member(target, target, join, content{"prev_events": w.parents(parents...)}))
		}
	}
	return []ruleCase{
		{StepMemberKeys, "member_membership", members(bob, bob, leave), StepLeaveSelf,
			func(w *world) verdict { return w.try(w.memberWith(bob, bob, content{})) }, StepMemberKeys},
		{StepMemberKeys, "member_state_key", members(bob, bob, leave), StepLeaveSelf,
			func(w *world) verdict { return w.try(w.message(TypeMember, bob, content{"membership": leave})) }, StepMemberKeys},
		{StepJoinCreator, "join_creator", first(alice, "create"), StepJoinCreator, first(dave, "create"), StepJoinOtherwise},
		{StepJoinCreator, "join_creator_later", first(alice, "create"), StepJoinCreator, first(alice, "create", "$x:a.example"), StepJoinOtherwise},
		{StepJoinSender, "join_sender", members(dave, dave, join, rule("public")), StepJoinPublic,
			members(bob, dave, join, rule("public")), StepJoinSender},
		{StepJoinBanned, "join_banned", members(dave, dave, join, rule("public")), StepJoinPublic,
			members(erin, erin, join, rule("public")), StepJoinBanned},
		{StepJoinInvited, "join_invited", members(dave, dave, join, is(dave, invite)), StepJoinInvited,
			members(dave, dave, join), StepJoinOtherwise},
		{StepJoinInvited, "join_joined", members(bob, bob, join), StepJoinInvited, members(dave, dave, join, is(dave, leave)), StepJoinOtherwise},
		{StepJoinInvited, "join_without_rule",
			members(dave, dave, join, is(dave, invite), func(w *world) { w.without(TypeJoinRules, "") }), StepJoinInvited,
			members(dave, dave, join, func(w *world) { w.without(TypeJoinRules, "") }), StepJoinOtherwise},
		{StepJoinPublic, "join_public", members(dave, dave, join, rule("public")), StepJoinPublic,
			members(dave, dave, join, rule("private")), StepJoinOtherwise},
		{StepJoinOtherwise, "join", members(dave, dave, join, rule("public")), StepJoinPublic,
			members(dave, dave, join, rule("private"), is(dave, invite)), StepJoinOtherwise},
		{StepMemberUnknown, "membership_unknown", members(bob, bob, leave), StepLeaveSelf, members(bob, bob, "dance"), StepMemberUnknown},
		{StepMemberUnknown, "membership_no_string", members(bob, bob, leave), StepLeaveSelf,
			func(w *world) verdict { return w.try(w.memberWith(bob, bob, content{"membership": 1})) }, StepMemberUnknown},
	}
}

// restricted tries a restricted join of dave that names via.
func restricted(via any, server string, prepare ...func(w *world)) func(w *world) verdict {
	return func(w *world) verdict {
		w.setJoinRule("restricted")
		for _, p := range prepare {
			p(w)
		}
		c := merge(content{"membership": join}, content{"join_authorised_via_users_server": via})
		return w.try(w.memberWith(dave, dave, c, signedBy(server)))
	}
}

func restrictedCases() []ruleCase {
	return []ruleCase{
		{StepMemberAuthorised, "authorised_signature", restricted(frank, "f.example"), StepJoinRestrictedAllow,
			restricted(frank, "a.example"), StepMemberAuthorised},
		{StepMemberAuthorised, "authorised_user_id", restricted(bob, "a.example"), StepJoinRestrictedAllow,
			restricted("a.example", "a.example"), StepMemberAuthorised},
		{StepJoinRestrictedMember, "restricted_invited", restricted(nil, "a.example", is(dave, invite)), StepJoinRestrictedMember,
			restricted(nil, "a.example"), StepJoinRestrictedAuthoriser},
		{StepJoinRestrictedAuthoriser, "restricted_authoriser_level",
			restricted(bob, "a.example", needs(content{"invite": 50})), StepJoinRestrictedAllow,
			restricted(carol, "a.example", needs(content{"invite": 50})), StepJoinRestrictedAuthoriser},
		{StepJoinRestrictedAuthoriser, "restricted_authoriser_joined",
			restricted(bob, "a.example"), StepJoinRestrictedAllow,
			restricted(bob, "a.example", is(bob, leave)), StepJoinRestrictedAuthoriser},
		{StepJoinRestrictedAllow, "restricted", restricted(carol, "a.example"), StepJoinRestrictedAllow,
			restricted(carol, "a.example", rule("private")), StepJoinOtherwise},
	}
}

func thirdPartyCases() []ruleCase {
	good := func(w *world) verdict { return w.try(w.thirdParty(alice, false, nil)) }
	inList := func(w *world) verdict { return w.try(w.thirdParty(alice, true, nil)) }
	spoilt := func(change content) func(w *world) verdict {
		return func(w *world) verdict { return w.try(w.thirdParty(alice, false, change)) }
	}
	wrongKey := func(w *world) verdict {
		e := w.thirdParty(alice, false, nil)
		w.set(w.event(TypeThirdPartyInvite, alice, "token", content{"public_key": "AAAA"}))
		return w.try(e)
	}
	return []ruleCase{
		{StepThirdPartyBanned, "third_party_banned", good, StepThirdPartySignature,
			func(w *world) verdict {
				e := w.thirdParty(alice, false, nil)
				w.set(w.member(alice, dave, ban))
				return w.try(e)
			}, StepThirdPartyBanned},
		{StepThirdPartySigned, "third_party_signed", good, StepThirdPartySignature,
			func(w *world) verdict {
				return w.try(w.memberWith(alice, dave, content{"membership": invite, "third_party_invite": content{}}))
			}, StepThirdPartySigned},
		{StepThirdPartyKeys, "third_party_mxid_missing", good, StepThirdPartySignature, spoilt(content{"mxid": nil}), StepThirdPartyKeys},
		{StepThirdPartyKeys, "third_party_token_missing", good, StepThirdPartySignature, spoilt(content{"token": nil}), StepThirdPartyKeys},
		{StepThirdPartyMXID, "third_party_mxid", good, StepThirdPartySignature, spoilt(content{"mxid": carol}), StepThirdPartyMXID},
		{StepThirdPartyEvent, "third_party_event", good, StepThirdPartySignature, spoilt(content{"token": "other"}), StepThirdPartyEvent},
		{StepThirdPartySender, "third_party_sender", good, StepThirdPartySignature,
			func(w *world) verdict { return w.try(w.thirdParty(bob, false, nil)) }, StepThirdPartySender},
		{StepThirdPartySignature, "1_third_party_public_key", good, StepThirdPartySignature, wrongKey, StepThirdPartyOtherwise},
		{StepThirdPartySignature, "2_third_party_public_keys", inList, StepThirdPartySignature, wrongKey, StepThirdPartyOtherwise},
		{StepThirdPartyOtherwise, "third_party", inList, StepThirdPartySignature, wrongKey, StepThirdPartyOtherwise},
	}
}

func inviteCases() []ruleCase {
	return []ruleCase{
		{StepInviteSender, "invite_sender", members(carol, dave, invite), StepInviteLevel, members(erin, dave, invite), StepInviteSender},
		{StepInviteTarget, "invite_target", members(carol, dave, invite), StepInviteLevel, members(carol, bob, invite), StepInviteTarget},
		{StepInviteTarget, "invite_banned", members(carol, dave, invite), StepInviteLevel, members(alice, erin, invite), StepInviteTarget},
		{StepInviteLevel, "invite_level", members(bob, dave, invite, needs(content{"invite": 50})), StepInviteLevel,
			members(bob, dave, invite, needs(content{"invite": 51})), StepInviteOtherwise},
		{StepInviteOtherwise, "invite", members(carol, dave, invite), StepInviteLevel,
			members(carol, dave, invite, needs(content{"invite": 1})), StepInviteOtherwise},
	}
}

func leaveCases() []ruleCase {
	return []ruleCase{
		{StepLeaveSelf, "leave_joined", members(carol, carol, leave), StepLeaveSelf, members(erin, erin, leave), StepLeaveSelf},
		{StepLeaveSelf, "leave_invited", members(dave, dave, leave, is(dave, invite)), StepLeaveSelf,
			members(dave, dave, leave), StepLeaveSelf},
		{StepLeaveSender, "kick_sender", members(bob, carol, leave), StepLeaveKick, members(dave, carol, leave), StepLeaveSender},
		{StepLeaveUnban, "unban", members(bob, erin, leave), StepLeaveKick,
			members(bob, erin, leave, needs(content{"ban": 51})), StepLeaveUnban},
		{StepLeaveKick, "kick", members(bob, frank, leave), StepLeaveKick, members(carol, frank, leave), StepLeaveOtherwise},
		{StepLeaveOtherwise, "kick_equal", members(alice, bob, leave), StepLeaveKick,
			members(bob, carol, leave, needs(content{"users": content{bob: 50, carol: 50}})), StepLeaveOtherwise},
		{StepLeaveOtherwise, "kick_level", members(bob, carol, leave), StepLeaveKick,
			members(bob, carol, leave, needs(content{"kick": 51})), StepLeaveOtherwise},
		{StepBanSender, "ban_sender", members(bob, carol, ban), StepBanLevel, members(dave, carol, ban), StepBanSender},
		{StepBanLevel, "ban", members(bob, dave, ban), StepBanLevel, members(carol, dave, ban), StepBanOtherwise},
		{StepBanOtherwise, "ban_level", members(bob, carol, ban), StepBanLevel,
			members(bob, carol, ban, needs(content{"ban": 51})), StepBanOtherwise},
		{StepBanOtherwise, "ban_creator", members(alice, bob, ban), StepBanLevel, members(bob, alice, ban), StepBanOtherwise},
	}
}

func knockCases() []ruleCase {
	return []ruleCase{
		{StepKnockRule, "knock_rule", members(dave, dave, knock, rule("knock")), StepKnockAllow,
			members(dave, dave, knock, rule("public")), StepKnockRule},
		{StepKnockSender, "knock_sender", members(dave, dave, knock, rule("knock")), StepKnockAllow,
			members(bob, dave, knock, rule("knock")), StepKnockSender},
		{StepKnockAllow, "knock", members(dave, dave, knock, rule("knock"), is(dave, leave)), StepKnockAllow,
			members(dave, dave, knock, rule("knock"), is(dave, invite)), StepKnockOtherwise},
		{StepKnockOtherwise, "knock_banned", members(dave, dave, knock, rule("knock"), is(dave, knock)), StepKnockAllow,
			members(erin, erin, knock, rule("knock")), StepKnockOtherwise},
		{StepKnockOtherwise, "knock_joined", members(dave, dave, knock, rule("knock")), StepKnockAllow,
			members(bob, bob, knock, rule("knock")), StepKnockOtherwise},
	}
}
